"""Redis refuses writes at random instants: nothing is lost, nothing is run twice, nothing counted twice."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from chaos.kit import FIGURES, QUEUE, Scene
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY = 10
TASKS = 1500
REFUSALS = 12
USER, PASSWORD = "few", "pw"  # of a Redis that lives for this test
NAMES = keys.queue_keys(QUEUE)
COMMANDS = (
    "-zadd",
    "-zrem",
    "-hset",
    "-lrem",
    "-ltrim",
    "-incrby",
    "-del",
    "-set",
    "-zadd -hset",
    "-@write",
    "-evalsha",
)
"""What the worker's user may not do for a while."""
SETS = (NAMES.completed, NAMES.retry, NAMES.archived, NAMES.scheduled)
"""Keys that are of another type for a while."""


class Refusals:
    """What Redis refuses for a while, and the end of that."""

    def __init__(self, scene: Scene) -> None:
        self._redis = scene.stage.redis
        self.made: list[str] = []

    def allow(self, *less: str) -> None:
        rights = ["~*", "&*", "+@all", *less]
        self._redis.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rights)

    def forbid(self, what: str, seconds: float) -> None:
        """The worker's user may not give these commands."""
        self.made.append(what)
        self.allow(*what.split())
        time.sleep(seconds)
        self.allow()

    def spoil(self, key: str, seconds: float) -> None:
        """A key is of another type; what it held comes back with the end of it."""
        self.made.append(key)
        with self._redis.pipeline(transaction=True) as pipeline:
            if self._redis.exists(key):
                pipeline.rename(key, "aside")
            pipeline.set(key, "junk")
            pipeline.execute()
        time.sleep(seconds)
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(key)
            if self._redis.exists("aside"):
                pipeline.rename("aside", key)
            pipeline.execute()


@pytest.mark.parametrize("kind", ["commands", "keys"])
def test_writes_refused_at_random_instants_lose_nothing_and_repeat_nothing(
    scene: Scene, seed: int, kind: str, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(seed)
    scene.define_queue(CONCURRENCY)
    refusals = Refusals(scene)
    refusals.allow()
    agent = scene.agent(redis_username=USER, redis_password=PASSWORD).wait_running()
    scene.enqueue_mixture(chance, TASKS)
    for number in range(REFUSALS):
        scene.until_processed((number + 1) * TASKS // (2 * REFUSALS))
        seconds = chance.uniform(0.2, 3)
        if kind == "commands":
            refusals.forbid(chance.choice(COMMANDS), seconds)
        else:
            refusals.spoil(chance.choice(SETS), seconds)
    scene.until_finished()
    until(lambda: scene.processed() >= TASKS, "everything is counted")
    assert agent.process.poll() is None
    total = scene.check()
    assert (total.in_vain, total.recovered) == (0, 0)  # no lease has ended
    assert agent.terminate() == 0
    record_property(
        FIGURES,
        f"seed {seed}: {TASKS} tasks, {REFUSALS} refusals ({', '.join(refusals.made)}): 0 lost, 0 run twice",
    )
