"""What is left of tasks that have ended, and of what others write about them: nothing stays for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.broker import keys
from runqy_agent.broker.broker import ARCHIVE_SECONDS, ARCHIVE_SIZE, Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.lookup import LookupKeys
from runqy_agent.broker.settle import LATE_SECONDS, Policy
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.loops.janitor import Janitor
from runqy_agent.outcome import Failure, Outcome, Revoked, Success
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from runqy_agent.demo.redis_server import RedisServer

NOW = 1_926_323_681
QUEUE = "q.default"
NAMES = keys.queue_keys(QUEUE)
HASH, LOOKUP = NAMES.task("a"), keys.LOOKUP_PREFIX + "a"
STAMPS: dict[Any, Any] = {"ttl_completed": 60, "ttl_archived": 60, "pending_timeout": 0, "active_timeout": 0}
SERVED = Policy(late_stamps=True)
FAILS = Failure("x", retry=False)


class Bench:
    """A queue with one task, of which the server writes when it has ended."""

    def __init__(self, client: Any, server: RedisServer) -> None:
        self.redis = client
        self.clock = SetClock(NOW)
        self.client = TaskClient(client, self.clock)
        self._address = RedisAddress("127.0.0.1", server.port)

    def do(self, step: Callable[[Broker], Awaitable[Any]], *, cluster: bool = False) -> Any:
        async def run() -> Any:
            client = open_client(self._address)
            # As on a cluster: the scripts may not touch what is in other slots, and it is written afterwards.
            lookups = {"lookup_keys": False, "afterwards": LookupKeys(client)} if cluster else {}
            broker = Broker(client, self.clock, **lookups)  # type: ignore[arg-type]
            broker.late_stamps = True
            try:
                return await step(broker)
            finally:
                await client.aclose()

        return asyncio.run(run())

    def run(self, outcome: Outcome, policy: Policy = SERVED, *, cluster: bool = False) -> None:
        """Take the one task there is and end it so."""

        async def steps(broker: Broker) -> None:
            (answer,) = await broker.exchange([Exchange(QUEUE, take=1)])
            (task,) = answer.taken
            settled = policy.settle(task, outcome, self.clock.now_ns())
            (answer,) = await broker.exchange([Exchange(QUEUE, [settled])])
            assert answer.held == [True]

        self.do(steps, cluster=cluster)

    def server_writes(self) -> None:
        self.redis.hset(HASH, mapping=STAMPS)
        self.redis.hset(LOOKUP, "queue", QUEUE)


@pytest.fixture
def bench(redis_client: redis.Redis, redis_server: RedisServer) -> Bench:
    return Bench(redis_client, redis_server)


in_both_ways = pytest.mark.parametrize("cluster", [False, True], ids=["one server", "cluster"])


@in_both_ways
@pytest.mark.parametrize("outcome", [Success(), Revoked()], ids=["done", "revoked"])
def test_what_the_server_writes_after_a_task_has_left_redis_expires(
    bench: Bench, outcome: Outcome, *, cluster: bool
) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=0)])
    bench.run(outcome, cluster=cluster)
    bench.server_writes()
    for key in (HASH, LOOKUP):
        assert 0 < bench.redis.ttl(key) <= LATE_SECONDS, key
    assert not bench.redis.hexists(HASH, "msg")


@pytest.mark.parametrize(
    ("fields", "stamps", "age", "policy"),
    [
        ({"task_type": "email:send"}, {}, 0, SERVED),
        ({}, {"ttl_completed": 0}, 0, SERVED),
        ({}, {}, LATE_SECONDS + 1, SERVED),
        ({}, {}, 0, Policy()),
    ],
    ids=["not the server's", "stamped already", "old", "no server"],
)
def test_a_task_of_which_nobody_will_write_any_more_leaves_nothing(
    bench: Bench, fields: dict[str, Any], stamps: dict[str, int], age: int, policy: Policy
) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=0, **fields)])
    bench.clock.advance(age)
    for name, value in stamps.items():
        bench.redis.hset(HASH, name, value)
    bench.run(Revoked(), policy)
    assert not bench.redis.exists(HASH)
    assert not bench.redis.exists(LOOKUP)


@in_both_ways
def test_done_deletes_the_look_up_key(bench: Bench, *, cluster: bool) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=0)])
    bench.redis.hset(LOOKUP, "queue", QUEUE)
    bench.run(Success(), Policy(), cluster=cluster)
    assert not bench.redis.exists(LOOKUP)


@in_both_ways
@pytest.mark.parametrize(("outcome", "ttl"), [(Success(b"1"), 70), (FAILS, 72 * 3600)], ids=["completed", "archived"])
def test_the_look_up_key_and_the_result_expire_with_the_task(
    bench: Bench, outcome: Outcome, ttl: int, *, cluster: bool
) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=70)])
    bench.redis.hset(LOOKUP, "queue", QUEUE)
    bench.run(outcome, Policy(store_results=True), cluster=cluster)
    assert ttl - 10 < bench.redis.ttl(LOOKUP) <= ttl
    if isinstance(outcome, Success):
        assert bench.redis.get(keys.RESULT_PREFIX + "a") == b"1"
        assert 60 < bench.redis.ttl(keys.RESULT_PREFIX + "a") <= 70


@in_both_ways
@pytest.mark.parametrize("outcome", [Success(b"1"), FAILS], ids=["completed", "archived"])
def test_a_look_up_key_that_came_late_goes_with_its_task(bench: Bench, outcome: Outcome, *, cluster: bool) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=70)])
    bench.run(outcome, cluster=cluster)
    bench.server_writes()
    assert bench.redis.ttl(LOOKUP) == -1
    bench.clock.advance(100)
    bench.do(lambda broker: Janitor(broker, [QUEUE], 60).round(), cluster=cluster)
    assert bench.redis.keys("*a") == []


def test_a_look_up_key_of_another_queue_is_left_alone(bench: Bench) -> None:
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a", retention=70)])
    bench.run(Success(b"1"))
    bench.redis.hset(LOOKUP, "queue", "another")
    bench.clock.advance(100)
    bench.do(lambda broker: Janitor(broker, [QUEUE], 60).round())
    assert not bench.redis.exists(HASH)
    assert bench.redis.hget(LOOKUP, "queue") == b"another"


@pytest.mark.parametrize(
    ("before", "after"),
    [(2**63 - 1, 1), (2**63 - 2, 1), (2**63 - 2048, 2**63 - 2047), (41, 42), (None, 1)],
)
@pytest.mark.parametrize("counter", ["processed", "failed"])
def test_a_counter_begins_anew_where_it_would_pass_the_largest_number(
    bench: Bench, counter: str, before: int | None, after: int
) -> None:
    if before is not None:
        bench.redis.set(getattr(NAMES, counter), before)
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a")])
    bench.run(FAILS)
    assert int(bench.redis.get(getattr(NAMES, counter))) == after
    day = f"{getattr(NAMES, counter)}:{keys.utc_day(NOW)}"
    assert bench.redis.get(day) == b"1"
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="b")])
    bench.run(FAILS)
    assert int(bench.redis.get(getattr(NAMES, counter))) == after + 1


def test_the_archive_holds_ten_thousand_tasks_and_ninety_days() -> None:
    assert (ARCHIVE_SIZE, ARCHIVE_SECONDS) == (10_000, 90 * 24 * 3600)  # asynq's


@pytest.mark.parametrize("spare", [0, 1, 5])
def test_beyond_its_size_the_oldest_archived_tasks_are_deleted(bench: Bench, spare: int) -> None:
    size = 10_000
    bench.redis.zadd(NAMES.archived, {f"{number:05}": NOW - 20_000 + number for number in range(size - 1 + spare)})
    for number in range(spare + 1):
        bench.redis.hset(NAMES.task(f"{number:05}"), "state", "archived")
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a")])
    bench.run(FAILS)
    assert bench.redis.zcard(NAMES.archived) == size
    assert bench.redis.zrange(NAMES.archived, 0, 0) == [f"{spare:05}".encode()]
    gone = [number for number in range(spare + 1) if not bench.redis.exists(NAMES.task(f"{number:05}"))]
    assert gone == list(range(spare))


def test_what_is_too_old_does_not_count_against_the_size_of_the_archive(bench: Bench) -> None:
    size, old = 10_000, 5
    bench.redis.zadd(NAMES.archived, {f"old {number}": NOW - ARCHIVE_SECONDS - number for number in range(old)})
    bench.redis.zadd(NAMES.archived, {f"{number:05}": NOW - 20_000 + number for number in range(size - 1)})
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a")])
    bench.run(FAILS)
    assert bench.redis.zcard(NAMES.archived) == size
    assert bench.redis.zrange(NAMES.archived, 0, 0) == [b"00000"]


@pytest.mark.parametrize(("age", "stays"), [(ARCHIVE_SECONDS, False), (ARCHIVE_SECONDS - 1, True)])
def test_an_archived_task_is_kept_for_ninety_days(bench: Bench, age: int, *, stays: bool) -> None:
    bench.redis.zadd(NAMES.archived, {"old": NOW - age})
    bench.redis.hset(NAMES.task("old"), "state", "archived")
    bench.client.enqueue_all([message(QUEUE, b"{}", task_id="a")])
    bench.run(FAILS)
    assert (bench.redis.zscore(NAMES.archived, "old") is not None) == stays
    assert bool(bench.redis.exists(NAMES.task("old"))) == stays


def test_an_archive_longer_than_the_janitors_window_is_looked_through_to_its_end(bench: Bench) -> None:
    kept = {f"kept {number}": NOW - 5000 + number for number in range(700)}
    over = {f"over {number}": NOW - 4000 + number for number in range(700)}
    bench.redis.zadd(NAMES.archived, kept | over)
    with bench.redis.pipeline(transaction=False) as pipeline:
        for task_id in kept:
            pipeline.hset(NAMES.task(task_id), mapping={"state": "archived", "ttl_archived": 0})
        for task_id in over:
            pipeline.hset(NAMES.task(task_id), mapping={"state": "archived", "ttl_archived": 60})
        pipeline.execute()
    bench.do(lambda broker: Janitor(broker, [QUEUE], 0).round())
    assert {each.decode() for each in bench.redis.zrange(NAMES.archived, 0, -1)} == set(kept)
    assert not any(bench.redis.exists(NAMES.task(task_id)) for task_id in over)


@pytest.mark.parametrize("number", [99, 100, 101, 250])
def test_completed_tasks_are_deleted_in_batches_to_the_last(bench: Bench, number: int) -> None:
    bench.redis.zadd(NAMES.completed, {f"t{each}": NOW - each for each in range(number)})
    bench.redis.zadd(NAMES.completed, {"later": NOW + 1})
    bench.do(lambda broker: Janitor(broker, [QUEUE], 0).round())
    assert bench.redis.zrange(NAMES.completed, 0, -1) == [b"later"]


@pytest.mark.parametrize("number", [99, 100, 101, 250])
def test_due_tasks_are_forwarded_in_batches_to_the_last(bench: Bench, number: int) -> None:
    with bench.redis.pipeline(transaction=False) as pipeline:
        for each in range(number):
            pipeline.hset(NAMES.task(f"t{each}"), mapping={"msg": b"x", "state": "retry"})
            pipeline.zadd(NAMES.retry, {f"t{each}": NOW - number + each})
        pipeline.execute()
    bench.do(lambda broker: broker.forward(QUEUE))
    assert bench.redis.lrange(NAMES.pending, 0, -1) == [f"t{each}".encode() for each in reversed(range(number))]
    assert bench.redis.zcard(NAMES.retry) == 0
