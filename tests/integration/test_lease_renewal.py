"""Leases: renewed in time, until the last task is written; and what becomes of a task whose lease has ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
from redis.exceptions import ConnectionError as RedisConnectionError

from monitor import Monitor
from recorder import Recorder, gated, hasty
from runqy_agent import Task, Worker, load_config
from runqy_agent.assembly import make_loops
from runqy_agent.broker import broker, keys, presence
from runqy_agent.broker.broker import LEASE_SECONDS, Broker
from runqy_agent.clock import Clock
from runqy_agent.demo.client import TaskClient
from runqy_agent.loops import heartbeat, leases, recoverer
from runqy_agent.loops.leases import Leases
from set_clock import SetClock
from stage import Stage, until
from task_kit import NOW, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest
    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

QUEUE = "inference.default"
NAMES = keys.queue_keys(QUEUE)


def lease(stage: Stage, task_id: str) -> float:
    return float(stage.redis.zscore(NAMES.lease, task_id) or 0.0)


# The intervals. A test cannot wait for each: what they must be to each other is checked, and that they are used.


def test_a_lease_survives_two_failed_rounds_and_nobody_takes_over_what_was_renewed_late() -> None:
    assert LEASE_SECONDS == 30  # asynq's; other workers count on it
    assert recoverer.GRACE == 30
    assert recoverer.INTERVAL == 60
    # Found below the mark at the latest one interval after it fell below it, with two more rounds before its end.
    assert leases.RENEW_BELOW - 3 * leases.INTERVAL >= 5
    # And renewed less than once in a round, or there is nothing to gain from long leases.
    assert LEASE_SECONDS - leases.RENEW_BELOW >= 2 * leases.INTERVAL - 1
    assert presence.SERVER_TTL == 2 * heartbeat.INTERVAL
    assert presence.WORKER_TTL >= 3 * heartbeat.INTERVAL


def test_a_worker_uses_these_intervals() -> None:
    config = load_config(environ={"RUNQY_REDIS_ADDRESS": "127.0.0.1:1"}, server_required=False)
    clients: Any = type("NoSentinels", (), {"watches_sentinels": lambda _: False})()
    loops = make_loops(config, Broker(None, Clock()), None, Clock(), [], clients=clients)  # type: ignore[arg-type]
    intervals = {loop.name: loop.interval for loop in (loops.leases, *loops.background) if hasattr(loop, "interval")}
    assert intervals == {"leases": 5.0, "deadlines": 0.25, "forwarder": 5.0, "recoverer": 60.0, "janitor": 8.0}


def test_a_task_outlives_its_first_lease_with_the_real_intervals(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent().wait_running()
    task_id = stage.client.enqueue(QUEUE, gated(gate), max_retry=0)
    first = until(lambda: lease(stage, task_id), "it has a lease")
    until(lambda: time.time() > first + 2, "the first lease is over")
    assert lease(stage, task_id) > time.time() + 5
    assert lease(stage, task_id) % 1 == first % 1  # it is still this worker's
    gate.touch()
    assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"
    assert recorder.runs() == [task_id]
    assert agent.terminate() == 0


# Which leases are renewed.


class Processor:
    """What the loop sees of a processor."""

    def __init__(self, held: Sequence[TakenTask]) -> None:
        self.held = held
        self.given_up: list[tuple[str, str]] = []

    @staticmethod
    def each(tasks: Sequence[TakenTask], step: Callable[[TakenTask], None]) -> None:
        for task in tasks:
            step(task)

    def lost(self, tasks: Sequence[TakenTask], why: str) -> None:
        self.given_up += [(task.id, why) for task in tasks]


class Extending:
    """A broker that renews, but for some."""

    def __init__(self, lost: Sequence[str] = ()) -> None:
        self.asked: dict[str, list[str]] = {}
        self._lost = lost

    async def extend(self, queue: str, tasks: Sequence[TakenTask]) -> list[TakenTask]:
        self.asked.setdefault(queue, []).extend(task.id for task in tasks)
        return [task for task in tasks if task.id in self._lost]


def one_round(tasks: Sequence[TakenTask], lost: Sequence[str] = (), clock: SetClock | None = None) -> Any:
    processor, extending = Processor(tasks), Extending(lost)
    asyncio.run(Leases(extending, clock or SetClock(NOW), processor).round())  # type: ignore[arg-type]
    return processor.given_up, extending.asked


def with_lease(task_id: str, left: float, queue: str = "q.default", redis_left: float | None = None) -> TakenTask:
    until_when = NOW + (left if redis_left is None else redis_left)
    return taken(task_id, queue=queue, lease_ends=NOW + left, held_until=until_when)


def test_what_is_about_to_end_is_renewed_and_nothing_else() -> None:
    tasks = [with_lease("long", 20.0), with_lease("short", 19.9), with_lease("last", 0.1), with_lease("b", 5, "other")]
    assert one_round(tasks) == ([], {"q.default": ["short", "last"], "other": ["b"]})


def test_what_has_ended_is_given_up_and_not_renewed() -> None:
    given_up, asked = one_round([with_lease("at the end", 0.0), with_lease("over", -5.0), with_lease("good", 25.0)])
    assert given_up == [(name, "its lease could not be renewed in time") for name in ("at the end", "over")]
    assert asked == {}


def test_what_is_found_to_be_another_workers_is_given_up() -> None:
    given_up, asked = one_round([with_lease("a", 5.0), with_lease("b", 5.0)], lost=["b"])
    assert [task_id for task_id, _ in given_up] == ["b"]
    assert asked == {"q.default": ["a", "b"]}


def test_what_ends_soon_by_a_redis_clock_that_was_set_forward_is_renewed_at_once() -> None:
    # By the clock of this host there is plenty of time left.
    tasks = [with_lease("a", 29.0, redis_left=-3600.0), with_lease("b", 29.0, redis_left=19.0)]
    assert one_round([*tasks, with_lease("c", 29.0)]) == ([], {"q.default": ["a", "b"]})


def test_a_lease_that_cannot_be_renewed_ends_the_work_on_its_task_and_nothing_is_written(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker, "LEASE_SECONDS", 2)
    monkeypatch.setattr(leases, "RENEW_BELOW", 1.5)
    monkeypatch.setattr(Leases.__init__, "__defaults__", (0.1,))
    caplog.set_level(logging.WARNING)

    async def refuse(*_: object) -> list[TakenTask]:
        raise RedisConnectionError("away")

    task_id = TaskClient(redis_client).enqueue("q", b"{}")

    async def run() -> None:
        config = load_config(environ={"RUNQY_REDIS_ADDRESS": redis_server.address}, server_required=False)
        worker = Worker(config, queues={"q": 1})
        ended = asyncio.Event()

        async def handler(_: Task) -> None:
            monkeypatch.setattr(Broker, "extend", refuse)
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        worker.handle_default(handler)
        await worker.bootstrap()
        serving = asyncio.create_task(worker.run())
        await asyncio.wait_for(ended.wait(), 60)
        assert worker.describe()["tasks"]["lost"] == 1
        assert worker.describe()["running"] == 0
        worker.stop()
        await serving

    asyncio.run(run())
    assert f"lost task {task_id}, its lease could not be renewed in time; its outcome is not written" in caplog.text
    names = keys.queue_keys("q")
    assert redis_client.lrange(names.active, 0, -1) == [task_id.encode()]  # for a recoverer
    assert redis_client.get(names.processed) is None


# The end.


def test_leases_and_heartbeat_go_on_until_the_last_task_of_a_drain_is_written(stage: Stage) -> None:
    Recorder(stage)
    gate = stage.directory / "gate"
    environment = hasty(stage.directory)
    agent = stage.agent(environment=environment, shutdown_timeout="60s").wait_running()
    task_id = stage.client.enqueue(QUEUE, gated(gate))
    until(lambda: lease(stage, task_id), "it is running")
    agent.process.send_signal(signal.SIGTERM)
    until(lambda: agent.record().get("status") == "draining", "it drains")
    held, beat = lease(stage, task_id), float(agent.record()["last_beat"])
    until(lambda: lease(stage, task_id) >= held + 3, "its lease is renewed, again and again")
    until(lambda: float(agent.record()["last_beat"]) >= beat + 2 * heartbeat.INTERVAL - 1, "its heart beats on")
    assert agent.record()["status"] == "draining"
    gate.touch()
    assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"
    assert agent.wait() == 0
    assert agent.record() == {}


def test_a_worker_leaves_the_lists_of_workers_only_after_its_last_task_was_put_back(stage: Stage) -> None:
    Recorder(stage)
    agent = stage.agent(shutdown_timeout="1s").wait_running()
    task_id = stage.client.enqueue(QUEUE, gated(stage.directory / "never"))
    until(lambda: lease(stage, task_id), "it is running")
    at_work = psutil.Process(agent.pid).children()
    with Monitor(stage.redis) as monitor:
        assert agent.terminate() == 0
    assert stage.state(QUEUE, task_id) == "pending"
    names = [command.name for command in monitor.commands()]
    put_back = next(n for n, command in enumerate(monitor.commands()) if "requeue" in command.text)
    left = next(n for n, name in enumerate(names) if name == "ZREM")
    assert put_back < left
    assert "record" in names[:put_back]  # it said that it drains
    assert "record" not in names[left:]
    assert not any(process.is_running() for process in at_work)
