"""Whatever raises while something is done for one task, that task is archived with the reason, and all others go on."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from runqy_agent.broker import keys
from runqy_agent.broker import presence as presence_module
from runqy_agent.broker.asynq_pb2 import WorkerInfo
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.message import TakenTask
from runqy_agent.broker.presence import Identity, Presence, WorkerState
from runqy_agent.broker.settle import LEASE_EXPIRED, Policy
from runqy_agent.clock import Clock
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.loops.canceller import Canceller
from runqy_agent.loops.deadlines import Deadlines
from runqy_agent.loops.leases import Leases
from runqy_agent.loops.processor import Processor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.loops.route import Route
from runqy_agent.loops.selection import WeightedShares
from runqy_agent.outcome import Failure, Outcome, Success
from runqy_agent.process.protocol import UnsendablePayloadError, encode_task
from runqy_agent.process.runner import RunnerHealth
from set_clock import SetClock
from task_kit import taken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis

    from runqy_agent.demo.redis_server import RedisServer
    from runqy_agent.process.runner import Runner, Sink

QUEUE = "q.default"
NAMES = keys.queue_keys(QUEUE)
BAD, GOOD = "bad", ("good 1", "good 2", "good 3")
PATIENCE = 60.0


class BugError(Exception):
    """What nobody has thought of."""


class Manual:
    """Begins tasks; the test ends them."""

    name, ready = "q", True
    health = RunnerHealth("ready")
    sink: Sink

    def __init__(self) -> None:
        self.begun: dict[str, TakenTask] = {}
        self.raises_for = ""
        self.abandon_raises = False

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    def run(self, tasks: Sequence[TakenTask]) -> None:
        for task in tasks:
            if task.id == self.raises_for:
                raise BugError(task.id)
            self.begun[task.id] = task

    def abandon(self, task: TakenTask) -> None:
        self.begun.pop(task.id, None)
        if self.abandon_raises:
            raise BugError(task.id)


class Rig:
    """A processor at work on a real Redis, with four tasks."""

    def __init__(self, client: Any, server: RedisServer, policy: Policy | None = None) -> None:
        self.redis = client
        self.clock = Clock()
        self.runner = Manual()
        self.connection = open_client(RedisAddress("127.0.0.1", server.port))
        self.broker = Broker(self.connection, self.clock)
        self.policy = policy or Policy(store_results=True)
        route = Route(QUEUE, 1, cast("Runner", self.runner), self.policy)
        self.processor = Processor(self.broker, self.clock, [route], 4, WeightedShares([(QUEUE, 1)]))
        self.tasks = TaskClient(client)
        self.tasks.enqueue_all([message(QUEUE, b"{}", task_id=task_id) for task_id in (GOOD[0], BAD, *GOOD[1:])])

    def __await__(self) -> Any:
        return self.all_begun().__await__()

    async def all_begun(self) -> None:
        self.task = self.processor.start()
        await until(lambda: len(self.runner.begun) == 4)

    def end(self, **outcomes: Outcome) -> None:
        """End every task that runs, those that are not named with success."""
        for task_id, task in list(self.runner.begun.items()):
            self.runner.begun.pop(task_id)
            self.processor.finished(task, outcomes.get(task_id, Success(b"1")))
        self.processor.wake()

    async def check(self, reason: str) -> None:
        """The bad one is archived with the reason, the others are completed, and the processor lives."""
        await until(lambda: not self.processor.held and self.redis.zcard(NAMES.completed) == len(GOOD))
        assert not self.task.done()
        await self.processor.stop()
        await self.connection.aclose()
        assert {each.decode() for each in self.redis.zrange(NAMES.completed, 0, -1)} == set(GOOD)
        assert self.redis.zrange(NAMES.archived, 0, -1) == [BAD.encode()]
        info = self.tasks.info(QUEUE, BAD)
        assert info is not None
        assert reason in info.message.error_msg
        assert self.processor.counts == {"Success": 3, "Failure": 1}
        for part in (NAMES.pending, NAMES.active, NAMES.lease, NAMES.retry):
            assert not self.redis.exists(part), part


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # what the tests wait for has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), PATIENCE)


@pytest.fixture
def live(
    redis_client: redis.Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    def run(test: Callable[[Rig], Awaitable[None]]) -> None:
        async def inside() -> None:
            await test(Rig(redis_client, redis_server))

        asyncio.run(inside())
        assert [record for record in caplog.records if record.levelno >= logging.ERROR], "it is logged"

    return run


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Failure(cast("str", None)), "AttributeError"), (Success(cast("bytes", "text")), "TypeError")],
    ids=["no error text", "no bytes"],
)
def test_an_outcome_that_cannot_be_written(live: Any, outcome: Outcome, reason: str) -> None:
    async def test(rig: Rig) -> None:
        await rig
        rig.end(bad=outcome)
        await rig.check(reason)

    live(test)


def test_a_runner_that_cannot_begin_it(live: Any) -> None:
    async def test(rig: Rig) -> None:
        rig.runner.raises_for = BAD
        rig.task = rig.processor.start()
        await until(lambda: len(rig.runner.begun) == 3)
        rig.end()
        await rig.check("BugError: bad")

    live(test)


def test_limits_that_cannot_be_told(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = TakenTask.limit

    def raises(task: TakenTask, *args: float) -> None:
        if task.id == BAD:
            raise BugError(task.id)
        limit(task, *args)

    monkeypatch.setattr(TakenTask, "limit", raises)

    async def test(rig: Rig) -> None:
        rig.task = rig.processor.start()
        await until(lambda: len(rig.runner.begun) == 3)
        rig.end()
        await rig.check("BugError: bad")

    live(test)


def test_a_task_that_cannot_be_read(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Broker._task

    def raises(broker: Broker, queue: str, values: list[Any], held_until: float) -> TakenTask:
        if values[0] == BAD.encode() and values[1] is not None:
            raise BugError(BAD)
        return read(broker, queue, values, held_until)

    monkeypatch.setattr(Broker, "_task", raises)

    async def test(rig: Rig) -> None:
        rig.task = rig.processor.start()
        await until(lambda: len(rig.runner.begun) == 3)
        rig.end()
        await rig.check("BugError: bad")

    live(test)


def test_a_task_that_the_heartbeat_cannot_tell_of(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(**fields: Any) -> Any:
        if fields["task_id"] == BAD:
            raise BugError(BAD)
        return WorkerInfo(**fields)

    monkeypatch.setattr(presence_module, "WorkerInfo", raises)

    async def test(rig: Rig) -> None:
        await rig
        presence = Presence(rig.broker, rig.clock, Identity("h", 1, "u", 0.0))
        state = WorkerState("running", 4, {QUEUE: 1}, strict_priority=False)
        running, set_aside = rig.processor.running, rig.processor.set_aside
        await presence.beat(WorkerState(**{**vars(state), "running": running, "set_aside": set_aside}))
        told = {each.decode() for each in rig.redis.hkeys(keys.active_workers("h:1:u"))}
        assert told == set(GOOD)
        rig.end()
        await rig.check("BugError: bad")

    live(test)


@pytest.mark.parametrize("loop", ["deadlines", "leases", "canceller"])
def test_a_task_that_a_loop_cannot_look_at(live: Any, loop: str) -> None:
    class Odd(float):
        """A time with which nothing can be compared."""

        def __le__(self, _: object) -> bool:
            raise BugError(BAD)

        def __lt__(self, _: object) -> bool:
            raise BugError(BAD)

    def raises(*_: object) -> str:
        raise BugError(BAD)

    async def test(rig: Rig) -> None:
        await rig
        bad = rig.runner.begun[BAD]
        if loop == "deadlines":
            bad.deadline = 0.0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TakenTask, "deadline_error", raises)
                await Deadlines(rig.clock, rig.processor).round()
        elif loop == "leases":
            known, bad.lease_ends = bad.lease_ends, Odd()
            await Leases(rig.broker, rig.clock, rig.processor).round()
            bad.lease_ends = known
        else:
            rig.runner.abandon_raises = True
            Canceller(rig.connection, rig.processor)._cancel(BAD)
            rig.runner.abandon_raises = False
            assert BAD not in rig.runner.begun
            rig.end()
            await until(lambda: not rig.processor.held)
            assert rig.redis.zrange(NAMES.retry, 0, -1) == [BAD.encode()]
            assert not rig.task.done()
            await rig.processor.stop()
            await rig.connection.aclose()
            return
        rig.end()
        await rig.check("BugError: bad")

    live(test)


def test_a_task_of_a_lost_worker_whose_outcome_cannot_be_decided(
    redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    class Odd(Policy):
        """Raises for one of them."""

        def settle(self, task: TakenTask, outcome: Outcome, now_ns: int) -> Any:
            if task.id == BAD:
                raise BugError(BAD)
            return super().settle(task, outcome, now_ns)

    async def test() -> None:
        rig = Rig(redis_client, redis_server)
        clock = SetClock(rig.clock.now())
        made = Broker(rig.connection, clock)
        await made.exchange([Exchange(QUEUE, take=4)], made.new_lease())
        clock.advance(61)
        await Recoverer(made, clock, {QUEUE: Odd()}).round()
        await rig.connection.aclose()

    asyncio.run(test())
    client: Any = redis_client
    assert {each.decode() for each in client.zrange(NAMES.retry, 0, -1)} == set(GOOD)
    assert client.zrange(NAMES.archived, 0, -1) == [BAD.encode()]
    tasks = TaskClient(redis_client)
    good, bad = tasks.info(QUEUE, GOOD[0]), tasks.info(QUEUE, BAD)
    assert good is not None
    assert bad is not None
    assert good.message.error_msg == LEASE_EXPIRED
    assert "BugError: bad" in bad.message.error_msg


def test_a_task_that_cannot_be_written_to_its_process_fails_alone() -> None:
    class Odd(TakenTask):
        """Has no payload."""

        @property
        def payload(self) -> bytes:
            raise BugError(BAD)

    good = taken()
    bad = Odd(good.id, good.queue, good.message, good.held_until, good.lease_ends)
    with pytest.raises(UnsendablePayloadError, match="BugError: bad"):
        encode_task(bad)
    assert encode_task(good)
