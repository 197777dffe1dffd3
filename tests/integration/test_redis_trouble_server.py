"""A Redis in trouble: it refuses writes, loads, is busy, or forgets. The worker waits, and goes on by itself."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from recorder import Recorder, gated, hasty
from runqy_agent.broker import keys
from runqy_agent.demo.client import message
from runqy_agent.demo.redis_server import RedisServer, free_port
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

QUEUE = "inference.default"
NAMES = keys.queue_keys(QUEUE)
PARTS = ("pending", "active", "lease", "scheduled", "retry", "archived")
SLOW_LOADING = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"]
"""Five milliseconds for each key when it starts with data, and meanwhile it answers LOADING."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own, whose troubles are nobody else's."""
    server = RedisServer(arguments=SLOW_LOADING)
    yield server
    server.close()


@pytest.fixture
def stage(tmp_path: Path, deployments: Path, server: RedisServer) -> Iterator[Stage]:
    """A stage on that Redis."""
    stage = Stage(tmp_path, deployments, server.client(), server.address)
    yield stage
    stage.close()


class Held:
    """A worker that holds three tasks, with room for one more.

    The first two end when the gate ``soon`` opens, the third with ``late``.
    """

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.stage = stage
        self.recorder = Recorder(stage, threads=4)
        self.agent = stage.agent(concurrency=4, **settings).wait_running()
        self.soon, self.late = stage.directory / "soon", stage.directory / "late"
        self.ids = stage.client.enqueue_all([message(QUEUE, gated(gate)) for gate in (self.soon, self.soon, self.late)])
        until(lambda: len(self.recorder.runs()) == len(self.ids), "three tasks are running")

    def until_seen(self, words: str) -> None:
        """Wait until the worker has met the trouble."""
        until(lambda: words in self.agent.log(), f"the worker has logged {words}")

    def enqueue(self) -> None:
        """One more task, that ends at once."""
        self.ids.append(self.stage.client.enqueue(QUEUE, b"{}"))

    def until_completed(self, number: int) -> None:
        until(lambda: self.stage.redis.zcard(NAMES.completed) == number, f"{number} tasks are completed")

    def check_that_each_ran_once(self) -> None:
        """After the last task has been completed."""
        assert self.agent.process.poll() is None
        assert sorted(self.stage.ids(QUEUE, "completed")) == sorted(self.ids)
        assert sorted(self.recorder.runs()) == sorted(self.ids)
        for part in PARTS:
            assert self.stage.ids(QUEUE, part) == [], part
        assert (self.stage.number(QUEUE, "processed"), self.stage.number(QUEUE, "failed")) == (len(self.ids), 0)
        assert "lost task" not in self.agent.log()
        assert self.agent.terminate() == 0


@contextmanager
def read_only(client: redis.Redis) -> Iterator[None]:
    """It is a replica, of a master that cannot be reached."""
    client.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def without_its_master(client: redis.Redis) -> Iterator[None]:
    """The same, and it does not answer from what it has."""
    client.config_set("replica-serve-stale-data", "no")
    with read_only(client):
        yield


@contextmanager
def unable_to_save(client: redis.Redis) -> Iterator[None]:
    """It cannot save its data, as its disk is gone, and so takes no writes."""
    found: Any = client.config_get("dir")
    Path(found["dir"]).rmdir()
    client.config_set("save", "3600 1000000")
    client.bgsave()

    def failed() -> bool:
        state: Any = client.info("persistence")
        return bool(state["rdb_last_bgsave_status"] == "err")

    until(failed, "saving has failed")
    with pytest.raises(redis.ResponseError, match="MISCONF"):
        client.set("a", "b")
    try:
        yield
    finally:
        client.config_set("save", "")  # or it would not end


@contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """It runs somebody's endless script."""
    client.config_set("lua-time-limit", 50)

    def run_for_ever() -> None:
        with suppress(redis.ResponseError):  # it is killed
            client.eval("while true do end", 0)

    somebody = threading.Thread(target=run_for_ever)
    somebody.start()
    try:
        yield
    finally:
        client.script_kill()
        somebody.join()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        pytest.param(read_only, "can't write against a read only replica", id="READONLY"),
        pytest.param(without_its_master, "Link with MASTER is down", id="MASTERDOWN"),
        pytest.param(unable_to_save, "MISCONF", id="MISCONF"),
        pytest.param(busy, "BUSY", id="BUSY"),
    ],
)
def test_when_redis_takes_no_writes_outcomes_wait_until_it_does_and_no_task_runs_twice(
    stage: Stage, trouble: Callable[[redis.Redis], AbstractContextManager[None]], words: str
) -> None:
    held = Held(stage)
    with trouble(stage.redis):
        held.soon.touch()
        held.until_seen(words)
        assert held.agent.process.poll() is None
    held.until_completed(2)
    held.enqueue()
    held.until_completed(3)
    held.late.touch()
    held.until_completed(4)
    held.check_that_each_ran_once()


def test_while_redis_loads_its_data_the_worker_waits(stage: Stage, server: RedisServer) -> None:
    held = Held(stage)
    with stage.redis.pipeline(transaction=False) as pipeline:
        for number in range(500):
            pipeline.set(f"filler:{number}", number)
        pipeline.execute()
    stage.redis.save()
    server.kill()
    held.soon.touch()
    server.start()  # returns when it answers
    assert "loading" in held.agent.log()
    held.until_completed(2)
    held.enqueue()
    held.late.touch()
    held.until_completed(4)
    held.check_that_each_ran_once()


def test_a_full_redis_keeps_nothing_from_being_renewed_finished_taken_or_forwarded(stage: Stage) -> None:
    held = Held(stage, environment=hasty(stage.directory))
    client = stage.redis
    held.enqueue()
    later = message(QUEUE, b"{}")
    held.ids.append(later.id)
    scheduled: dict[Any, Any] = {"msg": later.SerializeToString(), "state": "scheduled"}
    client.hset(NAMES.task(later.id), mapping=scheduled)
    client.zadd(NAMES.scheduled, {later.id: time.time() + 1})
    lease: Any = client.zscore(NAMES.lease, held.ids[2])
    client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.OutOfMemoryError):
        client.set("a", "b")
    beat = held.agent.record()["last_beat"]
    held.soon.touch()
    held.until_completed(4)

    def renewed() -> bool:
        found: Any = client.zscore(NAMES.lease, held.ids[2])
        return bool(found > lease + 1)

    until(renewed, "the lease of the task that is still running is renewed")
    until(lambda: held.agent.record()["last_beat"] > beat, "it is seen to be alive")
    held.late.touch()
    held.until_completed(5)
    client.config_set("maxmemory", 0)
    held.enqueue()
    held.until_completed(6)
    held.check_that_each_ran_once()


def test_scripts_that_are_forgotten_and_connections_that_are_killed_in_the_middle_of_work_harm_no_task(
    stage: Stage,
) -> None:
    tasks = 150
    recorder = Recorder(stage, threads=3)
    agent = stage.agent(concurrency=10).wait_running()
    ids = stage.client.enqueue_all([message(QUEUE, b'{"ms": %d}' % (number % 10)) for number in range(tasks)])
    client = stage.redis

    def gone_on(from_number: int) -> bool:
        return stage.number(QUEUE, "processed") > from_number or len(recorder.runs()) == tasks

    blows = 0
    while len(recorder.runs()) < tasks:
        client.script_flush()
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        blows += 1
        until(partial(gone_on, stage.number(QUEUE, "processed")), "it goes on")
    assert blows > 10
    until(lambda: client.zcard(NAMES.completed) == tasks, "every task is completed")
    assert sorted(recorder.runs()) == sorted(ids)
    for part in PARTS:
        assert stage.ids(QUEUE, part) == [], part
    assert (stage.number(QUEUE, "processed"), stage.number(QUEUE, "failed")) == (tasks, 0)
    assert agent.terminate() == 0


def test_after_redis_has_forgotten_everything_the_worker_goes_on_and_tells_which_tasks_are_lost(
    stage: Stage, server: RedisServer
) -> None:
    held = Held(stage)
    server.kill()
    server.start()
    assert stage.redis.zcard(NAMES.lease) == 0
    until(lambda: held.agent.record().get("status") == "running", "its record is there again")
    new = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, new, "completed", "retry", "archived") == "completed"
    held.soon.touch()
    held.late.touch()
    for task_id in held.ids:
        held.until_seen(f"lost task {task_id}")
    assert sorted(held.recorder.runs()) == sorted([*held.ids, new])
    assert (stage.number(QUEUE, "processed"), stage.number(QUEUE, "failed")) == (1, 0)
    assert not any(stage.state(QUEUE, task_id) for task_id in held.ids)
    assert held.agent.terminate() == 0
