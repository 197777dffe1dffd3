"""What one round of the loops does that look after all queues: everything that is due, of every queue, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_py

from runqy_agent.broker import keys
from runqy_agent.broker.broker import LEASE_SECONDS, Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.settle import LEASE_EXPIRED, Policy
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import ARCHIVE_EVERY, Janitor
from runqy_agent.loops.recoverer import GRACE, UNSETTLED, Recoverer
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runqy_agent.demo.redis_server import RedisServer
    from runqy_agent.loops.loop import PeriodicLoop

NOW = 1_926_323_681
QUEUES = ("bad", "good")
"""In the order in which they are looked after."""
GOOD = keys.queue_keys("good")


def rounds(server: RedisServer, make: Callable[[Broker, SetClock], PeriodicLoop], number: int = 1) -> None:
    async def run() -> None:
        clock = SetClock(NOW)
        client = open_client(RedisAddress("127.0.0.1", server.port))
        try:
            loop = make(Broker(client, clock), clock)
            for _ in range(number):
                await loop.round()
        finally:
            await client.aclose()

    asyncio.run(run())


def forwarder(broker: Broker, _: SetClock) -> Forwarder:
    return Forwarder(broker, QUEUES)


def janitor(broker: Broker, _: SetClock) -> Janitor:
    return Janitor(broker, QUEUES, ttl_archived=0)


def recoverer(broker: Broker, clock: SetClock) -> Recoverer:
    clock.set_at = clock.monotonic() - UNSETTLED - 1
    return Recoverer(broker, clock, dict.fromkeys(QUEUES, Policy()))


def put(client: redis_py.Redis, part: str, scores: Mapping[str, float], **fields: Any) -> None:
    """Tasks in one part of the good queue, by id and score."""
    with client.pipeline() as pipeline:
        for task_id in scores:
            task = message("good", b"{}", task_id=task_id)
            state = {"lease": "active"}.get(part, part)
            stored: dict[Any, Any] = {"msg": task.SerializeToString(), "state": state, **fields}
            pipeline.hset(GOOD.task(task_id), mapping=stored)
        pipeline.zadd(getattr(GOOD, part), dict(scores))
        pipeline.execute()


def left(client: redis_py.Redis, part: str) -> set[str]:
    """The ids in one part of the good queue. Those, and no others, have a hash."""
    found: Any = client.zrange(getattr(GOOD, part), 0, -1)
    ids = {each.decode() for each in found}
    hashes: Any = client.scan_iter(f"{GOOD.task_prefix}*", count=10_000)
    assert {each.decode().removeprefix(GOOD.task_prefix) for each in hashes} == ids
    return ids


def test_the_janitor_deletes_all_completed_tasks_whose_time_is_over_and_no_other(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    put(redis_client, "completed", {f"over-{number}": NOW - number for number in range(250)})
    put(redis_client, "completed", {"kept": NOW + 1})
    rounds(redis_server, janitor)
    assert left(redis_client, "completed") == {"kept"}


def test_an_archive_longer_than_the_janitors_window_is_looked_through_to_its_end(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    scores = {f"{number:04}": NOW - 2000.0 + number for number in range(1300)}
    brief = {task_id: score for task_id, score in scores.items() if int(task_id) % 3}
    put(redis_client, "archived", brief, ttl_archived=60)
    put(redis_client, "archived", {task_id: score for task_id, score in scores.items() if task_id not in brief})
    rounds(redis_server, janitor)
    assert left(redis_client, "archived") == scores.keys() - brief.keys()


def test_the_janitor_looks_through_archives_now_and_then(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    def make(broker: Broker, clock: SetClock) -> Janitor:
        loop = janitor(broker, clock)
        loop._rounds = 1  # it has looked once
        return loop

    put(redis_client, "archived", {"a": NOW - 100.0}, ttl_archived=60)
    rounds(redis_server, make, ARCHIVE_EVERY - 1)
    assert left(redis_client, "archived") == {"a"}
    rounds(redis_server, make, ARCHIVE_EVERY)
    assert left(redis_client, "archived") == set()


@pytest.mark.parametrize("part", ["scheduled", "retry"])
def test_the_forwarder_forwards_all_that_is_due_and_nothing_else(
    redis_server: RedisServer, redis_client: redis_py.Redis, part: str
) -> None:
    put(redis_client, part, {f"due-{number}": NOW - number for number in range(250)} | {"later": NOW + 1})
    rounds(redis_server, forwarder)
    waiting: Any = redis_client.lrange(GOOD.pending, 0, -1)
    assert len(waiting) == len(set(waiting)) == 250
    assert redis_client.zrange(getattr(GOOD, part), 0, -1) == [b"later"]
    assert redis_client.hget(GOOD.task("due-7"), "state") == b"pending"


def test_the_recoverer_takes_tasks_only_of_workers_that_have_been_away_for_long(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    ends = {"long ago": NOW - GRACE - 1, "just now": NOW - GRACE + 1, "held": NOW + LEASE_SECONDS}
    put(redis_client, "lease", ends)
    redis_client.rpush(GOOD.active, *ends)
    rounds(redis_server, recoverer)
    assert redis_client.zrange(GOOD.retry, 0, -1) == [b"long ago"]
    active: Any = redis_client.lrange(GOOD.active, 0, -1)
    assert set(active) == {b"just now", b"held"}
    info = TaskClient(redis_client).info("good", "long ago")
    assert info is not None
    assert (info.message.error_msg, info.message.retried) == (LEASE_EXPIRED, 1)


def test_the_recoverer_leaves_all_leases_alone_soon_after_redis_clock_was_set(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    def make(broker: Broker, clock: SetClock) -> Recoverer:
        loop = recoverer(broker, clock)
        clock.set_at = clock.monotonic() - UNSETTLED + 1
        return loop

    put(redis_client, "lease", {"a": NOW - 3600.0})
    redis_client.rpush(GOOD.active, "a")
    rounds(redis_server, make)
    assert redis_client.lrange(GOOD.active, 0, -1) == [b"a"]


@pytest.mark.parametrize(
    ("make", "part", "ended"),
    [(forwarder, "scheduled", "pending"), (janitor, "completed", ""), (recoverer, "lease", "retry")],
    ids=["forwarder", "janitor", "recoverer"],
)
def test_trouble_with_one_queue_keeps_no_other_from_being_looked_after(
    redis_server: RedisServer,
    redis_client: redis_py.Redis,
    make: Callable[[Broker, SetClock], PeriodicLoop],
    part: str,
    ended: str,
) -> None:
    redis_client.set(getattr(keys.queue_keys("bad"), part), "somebody's note")
    put(redis_client, part, {"a": NOW - 3600.0})
    if part == "lease":
        redis_client.rpush(GOOD.active, "a")
    with pytest.raises(redis_py.ResponseError, match="WRONGTYPE"):
        rounds(redis_server, make)
    state = redis_client.hget(GOOD.task("a"), "state")
    assert state == (ended.encode() or None)


def test_a_recovery_that_redis_refuses_is_trouble_and_leaves_the_task_where_it_is_found(
    redis_server: RedisServer, redis_client: redis_py.Redis
) -> None:
    put(redis_client, "lease", {"a": NOW - 3600.0})
    redis_client.rpush(GOOD.active, "a")
    redis_client.set(GOOD.retry, "somebody's note")
    with pytest.raises(redis_py.ResponseError, match="WRONGTYPE"):
        rounds(redis_server, recoverer)
    redis_client.delete(GOOD.retry)
    rounds(redis_server, recoverer)
    assert redis_client.zrange(GOOD.retry, 0, -1) == [b"a"]
