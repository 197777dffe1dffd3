"""Redis goes away and comes back: nothing is lost, and the worker outlives it."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from chaos.kit import FIGURES, Scene, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stage import Agent

CONCURRENCY = 10


@pytest.fixture
def scene(tmp_path: Path, deployments: Path) -> Iterator[Scene]:
    """Its Redis has on disk whatever it has acknowledged."""
    scene = Scene(tmp_path, deployments, fsync="always")
    yield scene
    scene.close()


class Outage:
    """What a worker did while Redis was away, and how soon it was at work again."""

    def __init__(self, scene: Scene, agent: Agent) -> None:
        self._scene = scene
        self._agent = agent
        self._cpu = cpu_seconds(agent)
        self._log = len(agent.log().splitlines())
        self._began = time.monotonic()

    def over(self) -> float:
        """Redis is back. Returns the seconds until the worker counted outcomes again."""
        lasted = time.monotonic() - self._began
        used = cpu_seconds(self._agent) - self._cpu
        said = len(self._agent.log().splitlines()) - self._log
        assert self._agent.process.poll() is None
        assert used < 1 + lasted / 5, f"{used:.1f} s of CPU time in {lasted:.1f} s without Redis"
        assert said < 20 + 10 * lasted, f"{said} lines logged in {lasted:.1f} s without Redis"
        self._scene.until_processed(self._scene.processed() + 1)
        return time.monotonic() - self._began - lasted


def test_redis_restarted_at_random_instants_loses_nothing_and_repeats_nothing(
    scene: Scene, seed: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(seed)
    tasks, restarts = 1500, 10
    scene.define_queue(CONCURRENCY)
    agent = scene.agent().wait_running()
    scene.enqueue_mixture(chance, tasks)
    signals = [signal.SIGTERM, signal.SIGKILL] * (restarts // 2)
    chance.shuffle(signals)
    slowest = 0.0
    for number in signals:
        scene.until_processed(scene.processed() + chance.randint(1, 100))
        time.sleep(chance.uniform(0, 0.02))
        outage = Outage(scene, agent)
        scene.stop_redis(number)
        time.sleep(chance.uniform(0, 2))
        scene.start_redis()
        slowest = max(slowest, outage.over())
    scene.until_finished()
    assert agent.process.poll() is None
    total = scene.check()
    assert (total.in_vain, total.recovered) == (0, 0)  # no lease has ended
    assert agent.terminate() == 0
    record_property(
        FIGURES,
        f"seed {seed}: {tasks} tasks, {restarts} restarts (SIGTERM and SIGKILL): 0 lost, 0 run twice; "
        f"at work again after {slowest:.1f} s at most",
    )


@pytest.mark.parametrize("busy", [True, False], ids=["at work", "idle"])
def test_redis_frozen_for_less_than_a_lease_loses_nothing_and_repeats_nothing(
    scene: Scene, seed: int, busy: bool, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(seed)
    scene.define_queue(CONCURRENCY)
    agent = scene.agent().wait_running()
    scene.enqueue_mixture(chance, 500 if busy else 50)
    scene.until_processed(chance.randint(1, 200) if busy else 50)
    outage = Outage(scene, agent)
    scene.freeze_redis()
    with ThreadPoolExecutor() as others:
        # What others send meanwhile is there when it goes on, beside what the worker has sent in vain.
        sent = others.submit(scene.enqueue_mixture, chance, 100)
        time.sleep(15)
        scene.thaw_redis()
        sent.result()
    resumed = outage.over()
    scene.until_finished()
    total = scene.check()
    assert (total.in_vain, total.recovered) == (0, 0)
    assert agent.terminate() == 0
    record_property(FIGURES, f"seed {seed}: frozen for 15 s: 0 lost, 0 run twice; at work again after {resumed:.1f} s")


@pytest.mark.parametrize("how", ["frozen", "down"])
def test_redis_away_for_longer_than_a_lease_costs_each_held_task_one_attempt_at_most(
    scene: Scene, seed: int, how: str, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(seed)
    scene.define_queue(CONCURRENCY)
    agent = scene.agent().wait_running()
    scene.enqueue_mixture(chance, 500)
    scene.until_processed(chance.randint(1, 300))
    outage = Outage(scene, agent)
    (scene.freeze_redis if how == "frozen" else scene.stop_redis)()
    time.sleep(40)
    (scene.thaw_redis if how == "frozen" else scene.start_redis)()
    scene.redis_was_away(how)
    resumed = outage.over()
    scene.until_finished()
    total = scene.check()
    assert total.recovered <= CONCURRENCY
    assert agent.terminate() == 0
    record_property(
        FIGURES,
        f"seed {seed}: {how} for 40 s: 0 lost, {total.in_vain} runs in vain (at most {CONCURRENCY}); "
        f"{total.recovered} recoveries; at work again after {resumed:.1f} s",
    )
