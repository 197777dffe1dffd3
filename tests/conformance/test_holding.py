"""Who holds a task, and what goes with it: what random histories have found, kept as tests of their own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from asynq_operations import AsynqClient, unique_key
from runqy_agent.broker import keys
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.settle import Policy, Settled
from runqy_agent.demo.client import message
from runqy_agent.outcome import Failure, Success, Unstarted
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

NOW = 1_926_323_681


def with_broker(server: RedisServer, run: Callable[[Broker, SetClock], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        clock = SetClock(NOW)
        client = open_client(RedisAddress("127.0.0.1", server.port))
        await run(Broker(client, clock), clock)
        await client.aclose()

    asyncio.run(opened())


async def take(broker: Broker, held_until: float) -> TakenTask:
    (answer,) = await broker.exchange([Exchange("q", take=1)], held_until)
    return answer.taken[0]


async def is_written(broker: Broker, settled: Settled) -> bool:
    (answer,) = await broker.exchange([Exchange("q", finished=[settled])])
    return answer.held[0]


@pytest.mark.parametrize("extends", [False, True], ids=["at once", "after extending"])
@pytest.mark.parametrize(("first", "second"), [(0.75, 0.25), (0.25, 0.75)])
def test_an_outcome_sent_again_is_not_written_for_what_another_took_in_the_same_second(
    redis_server: RedisServer, redis_client: redis.Redis, first: float, second: float, *, extends: bool
) -> None:
    AsynqClient(redis_client).enqueue("q", b"{}")

    async def run(broker: Broker, clock: SetClock) -> None:
        ours = await take(broker, NOW + 30 + first)
        if extends:
            clock.advance(15)
            assert await broker.extend("q", [ours]) == []
        settled = Policy().settle(ours, Unstarted(), clock.now_ns())
        assert await is_written(broker, settled)  # suppose that this reply never arrived
        theirs = await take(broker, int(clock.now()) + 30 + second)
        assert not await is_written(broker, settled)
        assert await broker.extend("q", [ours]) == [ours]
        assert await is_written(broker, Policy().settle(theirs, Success(), clock.now_ns()))

    with_broker(redis_server, run)


def test_an_extended_lease_keeps_its_fraction_so_that_its_task_is_still_told_from_others(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    task_id = AsynqClient(redis_client).enqueue("q", b"{}")

    async def run(broker: Broker, clock: SetClock) -> None:
        ours = await take(broker, NOW + 30 + 0.125)
        clock.advance(12.5)
        assert await broker.extend("q", [ours]) == []
        lease = redis_client.zscore(keys.queue_keys("q").lease, task_id)
        assert lease == ours.held_until == ours.lease_ends == NOW + 12 + 30 + 0.125

    with_broker(redis_server, run)


def test_an_outcome_that_was_on_its_way_while_its_lease_was_renewed_is_written(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    AsynqClient(redis_client).enqueue("q", b"{}")

    async def run(broker: Broker, clock: SetClock) -> None:
        ours = await take(broker, NOW + 30 + 0.125)
        when_sent = ours.held_until
        clock.advance(15)
        assert await broker.extend("q", [ours]) == []
        ours.held_until = when_sent  # a server that was frozen may carry out the later request first
        assert await is_written(broker, Policy().settle(ours, Success(), clock.now_ns()))

    with_broker(redis_server, run)


def test_a_recoverer_leaves_a_task_alone_whose_lease_was_renewed_after_it_had_looked(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    AsynqClient(redis_client).enqueue("q", b"{}")

    async def run(broker: Broker, clock: SetClock) -> None:
        ours = await take(broker, NOW + 30 + 0.125)
        clock.advance(61)
        (found,) = await broker.expired("q", clock.now() - 30)
        assert await broker.extend("q", [ours]) == []
        settled = Policy().settle(found.task, Failure("gone"), clock.now_ns())
        (answer,) = await broker.exchange([Exchange("q", [settled], recovering=True)])
        assert answer.held == [False]

    with_broker(redis_server, run)


def test_the_lock_of_an_archived_task_goes_with_it(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    task = message("q", b"{}")
    task.unique_key = unique_key("q", task.type, task.payload)
    AsynqClient(redis_client).put(task, lock_seconds=3600)

    async def run(broker: Broker, clock: SetClock) -> None:
        taken = await take(broker, broker.new_lease())
        assert await is_written(broker, Policy().settle(taken, Failure("broken", retry=False), clock.now_ns()))
        assert redis_client.exists(task.unique_key)
        clock.advance(61)
        assert await broker.expire_archived("q", ttl=60, offset=0) == (1, 1)
        assert not redis_client.exists(task.unique_key)

    with_broker(redis_server, run)
