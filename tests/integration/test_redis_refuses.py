"""A worker under load whose Redis refuses writes for some seconds: nothing is lost, nothing is run twice."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from recorder import Recorder
from runqy_agent.broker import keys
from runqy_agent.demo.client import message
from stage import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from stage import Stage

QUEUE = "inference.default"
NAMES = keys.queue_keys(QUEUE)
TASKS = 120
SECONDS = 2.0


def allow(client: Any, *less: str) -> None:
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", "+@all", *less)


@contextmanager
def without_zadd(client: Any) -> Iterator[None]:
    allow(client, "-zadd")
    yield
    allow(client)


@contextmanager
def completed_is_junk(client: Any) -> Iterator[None]:
    with client.pipeline(transaction=True) as pipeline:
        if client.exists(NAMES.completed):
            pipeline.rename(NAMES.completed, "aside")
        pipeline.set(NAMES.completed, "junk")
        pipeline.execute()
    yield
    client.delete(NAMES.completed)
    if client.exists("aside"):
        client.rename("aside", NAMES.completed)


@pytest.mark.parametrize("trouble", [without_zadd, completed_is_junk])
def test_writes_that_are_refused_for_some_seconds_cost_no_task_and_no_second_run(
    stage: Stage, trouble: Callable[[Any], AbstractContextManager[None]]
) -> None:
    client: Any = stage.redis
    allow(client)
    recorder = Recorder(stage, threads=3)
    agent = stage.agent(concurrency=6, redis_username="few", redis_password="pw").wait_running()
    ids = stage.client.enqueue_all([message(QUEUE, b'{"ms": %d}' % (number % 50)) for number in range(TASKS)])
    until(lambda: stage.number(QUEUE, "processed") > TASKS // 6, "it is at work")
    with trouble(client):
        until(lambda: "Redis refuses" in agent.log(), "it has met the trouble")
        time.sleep(SECONDS)  # of trouble, while it works
    until(lambda: client.zcard(NAMES.completed) == TASKS, "every task is completed")
    until(lambda: stage.number(QUEUE, "processed") == TASKS, "every task is counted")
    assert agent.process.poll() is None
    assert sorted(recorder.runs()) == sorted(ids)
    assert sorted(stage.ids(QUEUE, "completed")) == sorted(ids)
    for part in ("pending", "active", "lease", "retry", "archived"):
        assert stage.ids(QUEUE, part) == [], part
    assert stage.number(QUEUE, "failed") == 0
    assert agent.terminate() == 0
