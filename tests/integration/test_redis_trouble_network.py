"""A bad network between the worker and Redis: no task is lost or run twice, and the worker waits quietly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from flaky_proxy import CALM, EXCHANGES, FlakyProxy, Weather
from recorder import Recorder, gated
from runqy_agent.broker import keys
from runqy_agent.demo.client import message
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from runqy_agent.demo.redis_server import RedisServer
    from stage import Agent

QUEUE = "inference.default"
PARTS = ("pending", "active", "lease", "scheduled", "retry", "archived")


@pytest.fixture
def proxies(redis_server: RedisServer) -> Iterator[Callable[[], FlakyProxy]]:
    """Makes proxies in front of the Redis of the session."""
    made: list[FlakyProxy] = []

    def make() -> FlakyProxy:
        made.append(FlakyProxy(redis_server.port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def proxy(proxies: Callable[[], FlakyProxy]) -> FlakyProxy:
    """A proxy in front of the Redis of the session."""
    return proxies()


@pytest.fixture
def stage(tmp_path: Path, deployments: Path, redis_client: redis.Redis, proxy: FlakyProxy) -> Iterator[Stage]:
    """A stage whose agents reach Redis through the proxy."""
    stage = Stage(tmp_path, deployments, redis_client, proxy.address)
    yield stage
    stage.close()


def completed(stage: Stage, queue: str = QUEUE) -> int:
    return int(stage.redis.zcard(keys.queue_keys(queue).completed))


def cpu_seconds(agent: Agent) -> float:
    """The processor time that an agent has used, without its children."""
    times = psutil.Process(agent.pid).cpu_times()
    return float(times.user + times.system)


def assert_each_ran_once(stage: Stage, recorder: Recorder, ids: list[str], queue: str = QUEUE) -> None:
    assert sorted(stage.ids(queue, "completed")) == sorted(ids)
    assert sorted(recorder.runs()) == sorted(ids)
    for part in PARTS:
        assert stage.ids(queue, part) == [], part
    assert (stage.number(queue, "processed"), stage.number(queue, "failed")) == (len(ids), 0)


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(Weather(lost_replies=0.15, hits=EXCHANGES), id="exchanges without a reply"),
        pytest.param(Weather(lost_requests=0.15, hits=EXCHANGES), id="exchanges that never arrive"),
        pytest.param(
            Weather(lost_requests=0.06, lost_replies=0.06, request_delay=(0, 0.01), reply_delay=(0, 0.03)),
            id="cuts of everything, and delays",
        ),
    ],
)
def test_on_a_network_that_cuts_and_resets_every_task_is_run_and_counted_once(
    stage: Stage, proxy: FlakyProxy, weather: Weather
) -> None:
    tasks = 300
    recorder = Recorder(stage, threads=3)
    agent = stage.agent(concurrency=10).wait_running()
    proxy.weather = weather
    ids = stage.client.enqueue_all([message(QUEUE, b'{"ms": %d}' % (n % 7)) for n in range(tasks)])
    until(lambda: completed(stage) == tasks, "every task is completed")
    proxy.weather = CALM
    late = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, late, "completed", "archived", "retry") == "completed"
    until(lambda: not stage.ids(QUEUE, "active"), "nothing is left in active")
    assert agent.process.poll() is None
    assert_each_ran_once(stage, recorder, [*ids, late])
    assert agent.terminate() == 0
    # Or this would have proved nothing:
    assert proxy.cuts["lost reply"] + proxy.cuts["lost request"] >= 5
    assert proxy.cuts["reset"] > 0
    if weather.lost_replies:
        assert "was taken by an exchange whose reply was lost" in agent.log()


def test_a_worker_whose_idle_connections_are_reset_goes_on(stage: Stage, proxy: FlakyProxy) -> None:
    recorder = Recorder(stage)
    agent = stage.agent().wait_running()
    ids = []
    for _ in range(5):
        proxy.reset_all()  # uvloop closes them, and whoever writes to one is told so by a RuntimeError
        ids.append(stage.client.enqueue(QUEUE, b"{}"))
        until(lambda: completed(stage) == len(ids) or agent.process.poll() is not None, "the next task is completed")
        assert agent.process.poll() is None, agent.log()
    until(lambda: not stage.ids(QUEUE, "active"), "nothing is left in active")
    assert_each_ran_once(stage, recorder, ids)


OUTAGE_SECONDS = 11.0
"""Longer than the worker waits for a reply (10 s), well below a lease (30 s)."""


def turn_away(proxy: FlakyProxy) -> None:
    proxy.turns_away = True
    proxy.reset_all()


def turn_away_no_more(proxy: FlakyProxy) -> None:
    proxy.turns_away = False


def lose_what_was_held(proxy: FlakyProxy) -> None:
    proxy.reset_all()
    proxy.release()


OUTAGES: dict[str, tuple[Callable[[FlakyProxy], None], Callable[[FlakyProxy], None]]] = {
    "swallowed": (FlakyProxy.swallow, FlakyProxy.release),
    "lost": (FlakyProxy.swallow, lose_what_was_held),
    "refused": (FlakyProxy.refuse, FlakyProxy.accept),
    "reset": (turn_away, turn_away_no_more),
}
"""How Redis may be away: nothing arrives until the network is back, or ever; connections are refused, or reset."""


class Out:
    """A worker that will be cut off from Redis in one way, with tasks that it holds."""

    def __init__(self, stage: Stage, proxy: FlakyProxy, how: str) -> None:
        self.stage, self.proxy, self.how = stage, proxy, how
        self.queue = f"{how}.default"
        self.recorder = Recorder(stage, how, threads=4)
        self.soon, self.late = (stage.directory / f"{how}.{gate}" for gate in ("soon", "late"))
        self.agent = stage.agent(how, concurrency=4, redis_address=proxy.address)

    def take_tasks(self) -> None:
        """Let it take as many tasks as it may hold, with two more behind them."""
        gates = [self.soon, self.soon, self.soon, self.late, None, None]
        self.ids = self.stage.client.enqueue_all(
            [message(self.queue, gated(gate) if gate else b"{}") for gate in gates]
        )
        until(lambda: sorted(self.recorder.runs()) == sorted(self.ids[:4]), "four tasks are running")

    def begin(self) -> None:
        OUTAGES[self.how][0](self.proxy)
        self.soon.touch()
        self._connections, self._cpu, self._began = self.proxy.connections, cpu_seconds(self.agent), time.monotonic()

    def check_that_it_waits_quietly(self) -> None:
        lasted = time.monotonic() - self._began
        used, tried = cpu_seconds(self.agent) - self._cpu, self.proxy.connections - self._connections
        assert self.agent.process.poll() is None, self.agent.log()
        assert used < lasted / 5, f"{self.how}: {used:.2f} s of CPU time in {lasted:.1f} s without Redis"
        assert tried < 12 * lasted, f"{self.how}: {tried} connections in {lasted:.1f} s without Redis"
        assert sorted(self.stage.ids(self.queue, "active")) == sorted(self.ids[:4])
        assert len(self.stage.ids(self.queue, "pending")) == 2  # it has taken nothing

    def end(self) -> None:
        OUTAGES[self.how][1](self.proxy)

    def check_that_nothing_was_lost(self) -> None:
        until(lambda: completed(self.stage, self.queue) == 5, f"{self.how}: what was ready is written, and it goes on")
        self.late.touch()
        until(lambda: completed(self.stage, self.queue) == 6, f"{self.how}: the last task is completed")
        self.agent.process.terminate()  # and it ends while the others are looked at
        assert_each_ran_once(self.stage, self.recorder, self.ids, self.queue)
        assert "lost task" not in self.agent.log()


def test_while_redis_is_away_workers_wait_quietly_or_stop_when_told_and_what_was_ready_is_written_when_it_is_back(
    stage: Stage, proxy: FlakyProxy, proxies: Callable[[], FlakyProxy]
) -> None:
    outs = [Out(stage, proxies(), how) for how in OUTAGES]
    leaving, its_tasks = stage.agent(shutdown_timeout="500ms"), Recorder(stage)
    for agent in (leaving, *(out.agent for out in outs)):
        agent.wait_running()
    left = stage.client.enqueue(QUEUE, gated(stage.directory / "never"))
    until(its_tasks.runs, "the task of the one that will stop is running")
    for out in outs:
        out.take_tasks()
    proxy.swallow()
    for out in outs:
        out.begin()
    leaving.process.terminate()
    time.sleep(OUTAGE_SECONDS)
    for out in outs:
        out.check_that_it_waits_quietly()
    assert leaving.wait() == 0
    assert stage.ids(QUEUE, "active") == stage.ids(QUEUE, "lease") == [left]  # for another worker to recover
    for out in outs:
        out.end()
    for out in outs:
        out.check_that_nothing_was_lost()
    assert [out.agent.wait() for out in outs] == [0] * len(outs)
