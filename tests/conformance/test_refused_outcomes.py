"""A worker whose Redis refuses something leaves that alone for a while, goes on with all else, and gives nothing up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ResponseError

from runqy_agent.broker import keys
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.config.settings import Secret
from runqy_agent.demo.client import TaskClient
from runqy_agent.loops import forwarder, janitor, recoverer
from runqy_agent.loops import processor as processor_module
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.listener import Listener
from runqy_agent.loops.processor import REFUSED_DELAY, Processor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.loops.route import Route
from runqy_agent.loops.selection import WeightedShares
from runqy_agent.outcome import Success
from runqy_agent.process.runner import RunnerHealth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer
    from runqy_agent.process.runner import Runner, Sink

A, B = "a.default", "b.default"
CONCURRENCY = 3
PATIENCE = 60.0


class Echo:
    """Ends every task at once, with success, unless it is to wait."""

    name, ready = "q", True
    health = RunnerHealth("ready")
    sink: Sink

    def __init__(self) -> None:
        self.begun: list[TakenTask] = []
        self.waits = False
        self.abandoned: list[str] = []

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    def run(self, tasks: Sequence[TakenTask]) -> None:
        self.begun += tasks
        if not self.waits:
            self.end()

    def end(self) -> None:
        for task in self.begun:
            self.sink.finished(task, Success(b"1"))
        self.sink.wake()

    def abandon(self, task: TakenTask) -> None:
        self.abandoned.append(task.id)


class Rig:
    """A processor with two queues. It is woken as by a listener: for a new task, and by nothing else."""

    def __init__(self, client: Any, server: RedisServer) -> None:
        self.redis = client
        self.tasks = TaskClient(client)
        self.clock = Clock()
        self.runner = Echo()
        address = RedisAddress("127.0.0.1", server.port, username="few", password=Secret("pw"))
        self.connection = open_client(address)
        self.broker = Broker(self.connection, self.clock)
        policy = Policy(store_results=True)
        self.listeners = {queue: Listener(queue) for queue in (A, B)}
        runner = cast("Runner", self.runner)
        self.routes = [Route(queue, 1, runner, policy, listener=self.listeners[queue]) for queue in (A, B)]
        weights = WeightedShares([(A, 1), (B, 1)])
        self.processor = Processor(self.broker, self.clock, self.routes, CONCURRENCY, weights)

    def completed(self, queue: str) -> int:
        name = keys.queue_keys(queue).completed
        return int(self.redis.zcard(name)) if self.redis.type(name) == b"zset" else 0

    def processed(self, queue: str) -> int:
        return int(self.redis.get(keys.queue_keys(queue).processed) or 0)

    def enqueue(self, queue: str, number: int) -> None:
        for _ in range(number):
            self.tasks.enqueue(queue, b"{}")
        self.listeners[queue].tell()


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # what the tests wait for has no event
            await asyncio.sleep(0.002)

    await asyncio.wait_for(wait(), PATIENCE)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = rig.processor.start()
    yield rig
    assert not task.done(), "the processor ended by itself"
    await rig.processor.stop()
    await rig.connection.aclose()


@pytest.fixture
def rig_of(redis_client: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Rig]:
    allow(redis_client)
    monkeypatch.setattr(processor_module, "REFUSED_DELAY", 0.1)
    return lambda: Rig(redis_client, redis_server)


def allow(client: Any, *less: str) -> None:
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", "+@all", *less)


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(test())


def test_outcomes_that_redis_refuses_take_no_slots_of_other_queues_and_are_written_later(
    rig_of: Callable[[], Rig],
) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            completed = keys.queue_keys(A).completed
            rig.redis.set(completed, "junk")
            rig.enqueue(A, 20)
            await until(lambda: len(rig.processor.held) >= CONCURRENCY)
            rig.enqueue(B, 50)
            await until(lambda: rig.completed(B) == 50)
            assert (
                len([task for task in rig.processor.held if task.queue == A]) <= 2 * CONCURRENCY
            )  # what is kept is bounded
            assert rig.processed(A) == 0
            rig.redis.delete(completed)
            await until(lambda: rig.completed(A) == 20)
            await until(lambda: not rig.processor.held)
            assert (rig.processed(A), rig.processed(B)) == (20, 50)
            assert len(rig.runner.begun) == 70, "each was run once"

    run(test)


def test_an_outcome_that_redis_refuses_for_one_task_holds_up_no_other(rig_of: Callable[[], Rig]) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            rig.runner.waits = True
            rig.enqueue(A, 3)
            await until(lambda: len(rig.runner.begun) == 3)
            spoilt = keys.queue_keys(A).task(rig.runner.begun[1].id)
            rig.redis.rename(spoilt, "aside")
            rig.redis.set(spoilt, "junk")
            rig.runner.end()
            await until(lambda: rig.completed(A) == 2)
            rig.runner.waits = False
            rig.enqueue(A, 10)
            await until(lambda: rig.completed(A) == 12)
            assert rig.processor.counts["Lost"] == 0
            rig.redis.rename("aside", spoilt)
            await until(lambda: rig.completed(A) == 13)
            assert rig.processed(A) == 13

    run(test)


def test_where_redis_refuses_to_give_tasks_outcomes_are_written_all_the_same(rig_of: Callable[[], Rig]) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            rig.runner.waits = True
            rig.enqueue(A, CONCURRENCY)
            await until(lambda: len(rig.runner.begun) == CONCURRENCY)
            rig.enqueue(A, 5)
            allow(rig.redis, "-ltrim")
            rig.runner.end()
            await until(lambda: rig.completed(A) == CONCURRENCY)
            assert rig.redis.llen(keys.queue_keys(A).pending) == 5
            rig.runner.waits = False
            allow(rig.redis)
            await until(lambda: rig.completed(A) == CONCURRENCY + 5)
            assert rig.processed(A) == CONCURRENCY + 5

    run(test)


def test_what_could_not_be_counted_is_counted_later_and_once(rig_of: Callable[[], Rig]) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            allow(rig.redis, "-incrby")
            rig.enqueue(A, 7)
            await until(lambda: rig.completed(A) == 7)
            await until(lambda: not rig.processor.held)
            assert rig.processed(A) == 0
            allow(rig.redis)
            rig.enqueue(A, 1)
            await until(lambda: rig.processed(A) == 8)
            rig.enqueue(A, 1)
            await until(lambda: rig.processed(A) == 9)

    run(test)


NO_KEYS_OF_A = ("resetkeys", f"~asynq:{{{B}}}:*", "~asynq:t:*", "~asynq:result:*")


@pytest.mark.parametrize(
    "less", [("-ltrim",), ("-zadd",), NO_KEYS_OF_A], ids=["taking", "leasing", "the whole exchange"]
)
def test_after_a_refusal_redis_is_not_asked_again_for_some_seconds(
    rig_of: Callable[[], Rig], monkeypatch: pytest.MonkeyPatch, less: Sequence[str]
) -> None:
    monkeypatch.setattr(processor_module, "REFUSED_DELAY", 3600.0)

    async def test() -> None:
        async with running(rig_of()) as rig:
            allow(rig.redis, *less)
            rig.enqueue(A, 5)
            route = rig.routes[0]
            await until(lambda: max(route.not_before, route.take_not_before) > rig.clock.monotonic() + 3000)
            allow(rig.redis)
            rig.enqueue(B, 20)
            await until(lambda: rig.completed(B) == 20)
            assert rig.completed(A) == 0
            assert rig.redis.llen(keys.queue_keys(A).pending) == 5

    assert REFUSED_DELAY >= 1, "or the log would be full of it"
    run(test)


def test_a_task_whose_lease_has_ended_is_given_up_and_its_run_ends(rig_of: Callable[[], Rig]) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            rig.runner.waits = True
            rig.enqueue(A, 1)
            await until(lambda: rig.runner.begun)
            (task,) = rig.runner.begun
            task.lease_ends = rig.clock.monotonic() - 0.001
            rig.runner.waits = False
            rig.runner.begun.clear()
            rig.processor.finished(task, Success(b"1"))
            rig.processor.wake()
            await until(lambda: rig.processor.counts["Lost"] == 1)
            assert not rig.processor.held
            assert rig.completed(A) == 0
            assert rig.redis.zscore(keys.queue_keys(A).lease, task.id) is not None  # a recoverer's, from now on
            rig.enqueue(A, 1)
            await until(lambda: rig.completed(A) == 1)

    run(test)


def test_a_refused_outcome_whose_lease_has_ended_is_given_up(rig_of: Callable[[], Rig]) -> None:
    async def test() -> None:
        async with running(rig_of()) as rig:
            rig.redis.set(keys.queue_keys(A).completed, "junk")
            rig.enqueue(A, 1)
            await until(lambda: rig.routes[0].refused)
            (settled,) = rig.routes[0].refused
            rig.routes[0].send_again_at = rig.clock.monotonic() + 3600
            settled.task.lease_ends = rig.clock.monotonic() - 0.001
            rig.processor.wake()
            await until(lambda: rig.processor.counts["Lost"] == 1)
            assert not rig.processor.held
            assert not rig.routes[0].refused

    run(test)


def test_a_recoverer_that_is_refused_says_so(redis_client: redis.Redis, redis_server: RedisServer) -> None:
    names = keys.queue_keys(A)
    task_id = TaskClient(redis_client).enqueue(A, b"{}")
    redis_client.delete(names.pending)
    redis_client.hset(names.task(task_id), "state", "active")
    redis_client.lpush(names.active, task_id)
    redis_client.zadd(names.lease, {task_id: 1})
    redis_client.set(names.retry, "junk")

    async def test() -> None:
        connection = open_client(RedisAddress("127.0.0.1", redis_server.port))
        clock = Clock()
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await Recoverer(Broker(connection, clock), clock, {A: Policy()}).round()
        await connection.aclose()

    run(test)
    assert redis_client.zscore(names.lease, task_id) == 1


@pytest.mark.parametrize("loop", ["forwarder", "janitor", "recoverer"])
def test_trouble_with_one_queue_stops_no_other_s_loop(
    loop: str, redis_client: redis.Redis, redis_server: RedisServer
) -> None:
    client: Any = redis_client
    tasks = TaskClient(redis_client)
    spoilt, whole = keys.queue_keys(A), keys.queue_keys(B)
    for name in (spoilt.retry, spoilt.completed, spoilt.lease, spoilt.active, spoilt.scheduled):
        client.set(name, "junk")
    task_id = tasks.enqueue(B, b"{}")
    client.delete(whole.pending)
    part = {"forwarder": whole.retry, "janitor": whole.completed, "recoverer": whole.lease}[loop]
    client.zadd(part, {task_id: 1})
    if loop == "recoverer":
        client.lpush(whole.active, task_id)

    async def test() -> None:
        connection = open_client(RedisAddress("127.0.0.1", redis_server.port))
        broker, clock, policy = Broker(connection, Clock()), Clock(), Policy()
        loops = {
            "forwarder": Forwarder(broker, [A, B]),
            "janitor": Janitor(broker, [A, B], 3600),
            "recoverer": Recoverer(broker, clock, {A: policy, B: policy}),
        }
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await loops[loop].round()
        await connection.aclose()

    run(test)
    assert client.zscore(part, task_id) is None
    if loop == "janitor":
        assert not client.exists(whole.task(task_id))
    else:
        assert client.llen(whole.pending) == 1


def test_the_loops_have_asynq_s_intervals(redis_server: RedisServer) -> None:
    broker = cast("Broker", None)
    assert (Recoverer(broker, Clock(), {}).interval, recoverer.GRACE) == (60.0, 30.0)
    assert Forwarder(broker, []).interval == forwarder.INTERVAL == 5.0
    assert Janitor(broker, [], 0).interval == janitor.INTERVAL == 8.0
    assert pytest.approx(300, abs=10) == janitor.ARCHIVE_EVERY * janitor.INTERVAL


def test_archives_are_looked_through_at_the_start_and_then_now_and_then(
    redis_client: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    async def counts(_: Broker, __: str, ___: int, offset: int) -> tuple[int, int]:
        looks.append(offset)
        return 0, 0

    monkeypatch.setattr(Broker, "expire_archived", counts)
    redis_client.zadd(keys.queue_keys(A).archived, {"a": 1})

    async def test() -> None:
        connection = open_client(RedisAddress("127.0.0.1", redis_server.port))
        loop = Janitor(Broker(connection, Clock()), [A], 60)
        seen = []
        for _ in range(2 * janitor.ARCHIVE_EVERY + 1):
            await loop.round()
            seen.append(len(looks))
        await connection.aclose()
        assert (seen[0], seen[janitor.ARCHIVE_EVERY - 1], seen[janitor.ARCHIVE_EVERY], seen[-1]) == (1, 1, 2, 3)

    run(test)
