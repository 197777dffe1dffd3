"""Weights and strict priority, counted on a real Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from runqy_agent import Task, Worker, load_config
from runqy_agent.demo.client import TaskClient, message

if TYPE_CHECKING:
    import redis

    from runqy_agent.demo.redis_server import RedisServer

WEIGHTS = {"inference.high": 9, "inference.low": 3}


def served(
    server: RedisServer, client: redis.Redis, concurrency: int, backlog: int, count: int, *, strict: bool
) -> list[str]:
    """The queues of the first ``count`` tasks that a worker serves from two full queues, in order."""
    tasks = TaskClient(client)
    for queue in WEIGHTS:
        tasks.enqueue_all([message(queue, b"{}", retention=0) for _ in range(backlog)])
    order: list[str] = []

    async def run() -> None:
        environ = {"RUNQY_REDIS_ADDRESS": server.address, "RUNQY_CONCURRENCY": str(concurrency)}
        overrides = {"worker.strict_priority": str(strict).lower()}
        worker = Worker(load_config(environ=environ, overrides=overrides, server_required=False), queues=WEIGHTS)

        async def note(task: Task) -> None:
            order.append(task.queue)
            if len(order) == count:
                worker.stop()

        worker.handle_default(note)
        await worker.serve()

    asyncio.run(run())
    return order[:count]


@pytest.mark.parametrize("concurrency", [1, 10, 64])
def test_weights_of_9_and_3_are_served_3_to_1_over_4000_tasks(
    redis_server: RedisServer, redis_client: redis.Redis, concurrency: int
) -> None:
    count = 4000
    share = Counter(served(redis_server, redis_client, concurrency, count, count, strict=False))
    ratio = share["inference.high"] / share["inference.low"]
    assert ratio == pytest.approx(3.0, rel=0.1)


def test_the_weights_hold_over_any_short_stretch_too(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    order = served(redis_server, redis_client, 1, 400, 400, strict=False)
    for start in range(0, 400 - 8, 8):
        assert 1 <= order[start : start + 8].count("inference.low") <= 3


def test_strict_priority_drains_the_higher_queue_first(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    order = served(redis_server, redis_client, 10, 500, 1000, strict=True)
    assert order == ["inference.high"] * 500 + ["inference.low"] * 500
