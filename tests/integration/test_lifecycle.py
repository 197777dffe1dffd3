"""How a worker ends, pauses and goes on."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from runqy_agent import Task, Worker, load_config
from runqy_agent.broker import keys
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.errors import LoopDiedError
from runqy_agent.loops.forwarder import Forwarder
from stage import until

if TYPE_CHECKING:
    import redis

    from runqy_agent.demo.redis_server import RedisServer
    from stage import Stage

QUEUE = "inference.default"


def test_the_death_of_a_loop_stops_the_worker_loudly_and_loses_nothing(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = TaskClient(redis_client)
    served, waiting = client.enqueue("q", b"1"), client.enqueue("q", b"2")
    broken = asyncio.Event()

    async def break_down(_: Forwarder) -> None:
        await broken.wait()
        raise ZeroDivisionError("a bug in the forwarder")

    monkeypatch.setattr(Forwarder, "round", break_down)

    async def run() -> None:
        config = load_config(environ={"RUNQY_REDIS_ADDRESS": redis_server.address}, server_required=False)
        worker = Worker(config, queues={"q": 1})
        release = asyncio.Event()

        async def handler(task: Task) -> None:
            if task.id == served:
                broken.set()
                asyncio.get_running_loop().call_later(0.1, release.set)
                await release.wait()

        worker.handle_default(handler)
        await worker.serve()

    with pytest.raises(LoopDiedError, match="forwarder has ended: ZeroDivisionError"):
        asyncio.run(run())
    assert "forwarder has ended, stopping the worker" in caplog.text
    first = client.info("q", served)
    assert first is not None
    assert first.state == "completed"
    second = client.info("q", waiting)
    assert second is not None
    assert second.state == "pending"
    assert list(redis_client.scan_iter("asynq:workers*")) == []


def test_a_paused_worker_takes_nothing_and_stays_up(stage: Stage) -> None:
    stage.queue("inference")
    agent = stage.agent().wait_running()
    agent.process.send_signal(signal.SIGTSTP)
    until(lambda: agent.record().get("status") == "draining", "the worker says that it drains")
    task_id = stage.client.enqueue(QUEUE, b"{}")
    # Whoever waits on the queue puts the id back; after that it stays where it is.
    until(lambda: stage.ids(QUEUE, "pending") == [task_id] and not stage.ids(QUEUE, "active"), "the task is pending")
    assert agent.process.poll() is None
    agent.process.send_signal(signal.SIGCONT)
    assert stage.until_state(QUEUE, task_id, "completed", "archived") == "completed"


def test_a_queue_paused_in_asynqs_way_is_left_alone_until_it_goes_on(stage: Stage) -> None:
    stage.queue("inference", sub_queues={"inference.high": 1, "inference.low": 1})
    stage.agent().wait_running()
    stage.redis.set(keys.queue_keys("inference.high").paused, 1)
    held = stage.client.enqueue("inference.high", b"{}")
    other = stage.client.enqueue("inference.low", b"{}")
    assert stage.until_state("inference.low", other, "completed", "archived") == "completed"
    until(lambda: stage.ids("inference.high", "pending") == [held], "the task is pending")
    stage.redis.delete(keys.queue_keys("inference.high").paused)
    assert stage.until_state("inference.high", held, "completed", "archived") == "completed"


def test_scheduled_tasks_run_when_they_are_due(stage: Stage) -> None:
    stage.queue("inference")
    stage.agent().wait_running()
    names = keys.queue_keys(QUEUE)
    stored = message(QUEUE, b"{}", task_id="later").SerializeToString()
    stage.redis.hset(names.task("later"), mapping={"msg": stored, "state": "scheduled"})
    stage.redis.zadd(names.scheduled, {"later": 1})
    assert stage.until_state(QUEUE, "later", "completed", "archived") == "completed"
