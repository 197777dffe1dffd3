"""What waiting costs Redis, and what one new task sets in motion in a fleet."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from monitor import Monitor
from runqy_agent import Worker, load_config
from runqy_agent.demo.client import TaskClient
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from runqy_agent.demo.redis_server import RedisServer

QUEUE = "fleet"
WAITING = {"EXISTS", "BLPOP", "watch", "unwatch", "exchange"}
"""What picking up a task is made of."""


@pytest.mark.parametrize("concurrency", [1, 64])
def test_an_idle_worker_sends_at_most_three_commands_a_second(stage: Stage, concurrency: int) -> None:
    stage.queue("inference", sub_queues={"inference.high": 9, "inference.low": 3})
    stage.agent(concurrency=concurrency).wait_running()
    seconds = 12.0
    with Monitor(stage.redis) as monitor:
        until(lambda: any(command.name == "watch" for command in monitor.commands()), "it waits")
        begin = time.monotonic()
        time.sleep(seconds)  # what is measured is a rate
        counted = [command for command in monitor.commands() if begin <= command.at < begin + seconds]
    assert len(counted) <= 3 * seconds, [command.name for command in counted]
    assert {"watch", "EXISTS", "beat"} <= {command.name for command in counted}


@contextmanager
def fleet(redis_server: RedisServer, size: int) -> Iterator[list[Worker]]:
    """Workers with a handler each, all in one event loop of a thread of its own."""
    environment = {"RUNQY_REDIS_ADDRESS": redis_server.address, "RUNQY_QUEUES": QUEUE}
    workers: list[Worker] = []
    ended = threading.Event()

    async def handle(_: object) -> None:
        await asyncio.sleep(0)

    async def serve() -> None:
        for _ in range(size):
            worker = Worker(load_config(environ=environment, server_required=False))
            worker.handle_default(handle)
            workers.append(worker)
        await asyncio.gather(*(worker.serve() for worker in workers))
        ended.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fleet")
    thread.start()
    try:
        until(lambda: len(workers) == size and all(worker.status == "running" for worker in workers), "all run")
        yield workers
    finally:
        for worker in workers:
            worker.stop()
        thread.join()
    assert ended.is_set()


def commands_for_one_task(redis_server: RedisServer, client: redis.Redis, workers: int) -> float:
    """The median number of commands that picking up one task costs, all workers together."""
    tasks = TaskClient(client)
    costs = []
    with fleet(redis_server, workers), Monitor(client) as monitor:
        until(lambda: len(client.client_list(_type="normal")) > 2 * workers, "all wait")
        for _ in range(25):
            task_id = tasks.enqueue(QUEUE, b"{}")
            begin = time.monotonic()
            until(partial(_completed, tasks, task_id), "the task is completed")
            time.sleep(0.06)  # until the worker at the second place has looked again
            end = time.monotonic()
            costs.append(sum(command.name in WAITING and begin <= command.at < end for command in monitor.commands()))
            time.sleep(0.1)
    return statistics.median(costs)


def _completed(tasks: TaskClient, task_id: str) -> bool:
    info = tasks.info(QUEUE, task_id)
    return info is not None and info.state == "completed"


def test_one_task_wakes_one_of_fifty_idle_workers_and_not_all(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    alone = commands_for_one_task(redis_server, redis_client, 1)
    in_a_fleet = commands_for_one_task(redis_server, redis_client, 50)
    # Some of what fifty workers do every few seconds falls into each interval; the median sees at most one or two.
    assert in_a_fleet <= alone + 3 + 2, (alone, in_a_fleet)


def test_a_burst_reaches_the_whole_fleet(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    tasks = TaskClient(redis_client)
    gate = threading.Event()
    running: set[int] = set()
    with fleet(redis_server, 10) as workers:
        for number, worker in enumerate(workers):

            async def wait(_: object, number: int = number) -> None:
                running.add(number)
                while not gate.is_set():  # noqa: ASYNC110  # one gate for all, set from another thread
                    await asyncio.sleep(0.01)

            worker.handle("busy", wait)
        for _ in range(10):
            tasks.enqueue(QUEUE, b"{}", task_type="busy")
        try:
            until(lambda: len(running) == 10, "all ten workers have a task")
        finally:
            gate.set()
