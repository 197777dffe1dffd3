"""What goes wrong in the soak: one thing after the other, drawn at random."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flaky_proxy import CALM, Weather
from runqy_agent.broker import keys
from soak.crew import ROLES
from soak.load import QUEUES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    import redis

    from flaky_proxy import FlakyProxy
    from runqy_agent.demo.redis_server import RedisServer
    from runqy_agent.demo.repositories import GitRepository
    from soak.crew import Crew

LONGEST_PAUSE = 3.0
"""Seconds that Redis is away at most: well below a lease (30 s), also on a slow machine."""
INTERVAL = (0.2, 1.2)
"""Seconds between two troubles, from and to."""


@dataclass
class Trouble(threading.Thread):
    """Makes trouble until it is told to stop.

    Attributes:
        counts: how often it has done what.
        raised: what has ended it before it was told to.
    """

    crew: Crew
    server: RedisServer
    proxy: FlakyProxy
    repositories: dict[str, GitRepository]
    program: str
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    raised: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name="trouble", daemon=True)
        self._stopping = threading.Event()
        self._redis: redis.Redis = self.server.client()
        self._version = 0
        self._kinds: dict[Callable[[], None], float] = {
            self._weather: 5,
            self._cut: 3,
            self._swallow: 2,
            self._freeze_redis: 2,
            self._pause_clients: 2,
            self._pause_queue: 2,
            self._kill_process: 3,
            self._kill_agent: 1.5,
            self._end_agent: 1.5,
            self._redeploy: 2,
        }

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            while not self._stopping.wait(self.chance.uniform(*INTERVAL)):
                self.crew.replace_those_that_gave_up()
                (kind,) = self.chance.choices(list(self._kinds), list(self._kinds.values()))
                kind()
        except BaseException as error:  # noqa: BLE001  # raised again by whoever stops it
            self.raised = error

    def stop(self) -> None:
        """End all trouble."""
        self._stopping.set()
        self.join()
        self.proxy.weather = CALM
        for queue in QUEUES:
            self._redis.delete(keys.queue_keys(queue).paused)
        self._redis.close()
        if self.raised is not None:
            raise self.raised

    def _weather(self) -> None:
        self.counts["weather changes"] += 1
        if self.chance.random() < 0.3:
            self.proxy.weather = CALM
            return
        slow = self.chance.choice([0.0, 0.0, 0.005, 0.1])
        self.proxy.weather = Weather(
            lost_requests=self.chance.choice([0.0, 0.02]),
            lost_replies=self.chance.choice([0.0, 0.01, 0.05]),
            request_delay=(0.0, slow),
            reply_delay=(0.0, slow),
        )

    def _cut(self) -> None:
        self.counts["all connections cut"] += 1
        self.proxy.reset_all()

    def _swallow(self) -> None:
        self.counts["black holes"] += 1
        self.proxy.swallow()
        self._stopping.wait(self.chance.uniform(0.2, LONGEST_PAUSE))
        self.proxy.release()

    def _freeze_redis(self) -> None:
        self.counts["Redis stopped for a while"] += 1
        with _stopped(self.server.pid):
            time.sleep(self.chance.uniform(0.1, LONGEST_PAUSE))

    def _pause_clients(self) -> None:
        self.counts["CLIENT PAUSE"] += 1
        self._redis.client_pause(self.chance.randrange(100, 1500), all=self.chance.random() < 0.5)

    def _pause_queue(self) -> None:
        self.counts["queues paused"] += 1
        paused = keys.queue_keys(self.chance.choice(QUEUES)).paused
        self._redis.set(paused, int(time.time()))
        self._stopping.wait(self.chance.uniform(0.2, 2))
        self._redis.delete(paused)

    def _role(self) -> int:
        return self.chance.randrange(1, len(ROLES))

    def _kill_process(self) -> None:
        role = self.chance.randrange(len(ROLES))
        if self.crew.kill_process(role, self.chance.random()):
            self.counts["processes killed"] += 1

    def _kill_agent(self) -> None:
        self.counts["agents killed"] += 1
        self.crew.replace_killed(self._role(), whole=self.chance.random() < 0.5)

    def _end_agent(self) -> None:
        self.counts["agents told to end"] += 1
        self.crew.replace_ended(self._role())

    def _redeploy(self) -> None:
        self.counts["redeploys"] += 1
        self._version += 1
        bad = "raise SystemExit('a bad commit')\n" if self.chance.random() < 0.2 else ""
        repository = self.repositories[self.chance.choice(list(self.repositories))]
        repository.commit({"main.py": f"{bad}{self.program}\n# version {self._version}\n"})
        self.crew.redeploy(self.chance.randrange(len(ROLES)))


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
