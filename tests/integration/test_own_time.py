"""A task's timeout counts its own run; a task whose deadline is over is not run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from recorder import Recorder, gated, hasty
from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import WorkerInfo
from runqy_agent.demo.client import message
from stage import Stage, until

if TYPE_CHECKING:
    from typing import Any

    from runqy_agent.broker.asynq_pb2 import TaskMessage

QUEUE = "inference.default"
NEVER = "never"
OVER = "context deadline exceeded"
SPARE = 20
"""Seconds of timeout for a task that takes no time by itself, on a slow machine."""


def enqueue(stage: Stage, payload: bytes = b"{}", **fields: Any) -> str:
    """Enqueue a task whose message has these fields."""
    task = message(QUEUE, payload, max_retry=fields.pop("max_retry", 3))
    for name, value in fields.items():
        setattr(task, name, value)
    stage.client.enqueue_all([task])
    return task.id


def stored(stage: Stage, task_id: str) -> TaskMessage:
    found = stage.client.info(QUEUE, task_id)
    assert found is not None
    return found.message


def redis_time(stage: Stage) -> float:
    seconds, microseconds = stage.redis.time()
    return float(seconds + microseconds / 1e6)


def infos(stage: Stage) -> dict[str, WorkerInfo]:
    """What asynq's Inspector reads of the running tasks."""
    found = {}
    for key in stage.redis.scan_iter("asynq:active-workers:*"):
        values: Any = stage.redis.hvals(key)
        for raw in values:
            info = WorkerInfo.FromString(raw)
            found[info.task_id] = info
    return found


def ran_for(log: str, task_id: str) -> float:
    """How long a task ran, by the log."""
    found = re.search(rf"task {task_id} \w+ after ([0-9.]+) s", log)
    assert found, log
    return float(found[1])


# The timeout.


def test_what_waits_behind_others_in_its_process_has_its_whole_timeout_when_its_turn_comes(stage: Stage) -> None:
    # Longer than the timeout of one, and together, but not alone: nothing may fail.
    recorder = Recorder(stage)
    agent = stage.agent(concurrency=4, log_level="debug").wait_running()
    ids = [enqueue(stage, b'{"ms": 1500}', timeout=4) for _ in range(4)]
    for task_id in ids:
        assert stage.until_state(QUEUE, task_id, "completed", "retry", "archived") == "completed"
    assert recorder.runs() == ids
    assert stage.number(QUEUE, "failed") == 0
    assert agent.terminate() == 0


def test_short_tasks_behind_a_long_one_do_not_fail_without_having_begun(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=3).wait_running()
    long = enqueue(stage, gated(gate))
    until(recorder.runs, "the long one is running")
    short = [enqueue(stage, timeout=1, max_retry=0), enqueue(stage, timeout=1, max_retry=0)]
    until(lambda: len(stage.ids(QUEUE, "active")) == 3, "all are taken")
    begin = redis_time(stage)
    # The short ones are told as if they began now, whenever one looks, and so their deadline moves.
    until(lambda: set(infos(stage)) == {long, *short}, "the Inspector sees them")
    until(lambda: infos(stage)[short[0]].start_time.seconds > begin + 3, "more than their timeout has passed")
    shown = infos(stage)
    assert shown[short[1]].deadline.seconds - shown[short[1]].start_time.seconds == 1
    assert shown[long].start_time.seconds <= begin
    assert recorder.runs() == [long]
    assert set(stage.ids(QUEUE, "active")) == {long, *short}
    gate.touch()
    for task_id in (long, *short):
        assert stage.until_state(QUEUE, task_id, "completed", "retry", "archived") == "completed"
    assert agent.terminate() == 0
    assert ran_for(agent.log(), long) > 3
    assert ran_for(agent.log(), short[1]) < ran_for(agent.log(), long)


def test_a_task_that_runs_longer_than_its_timeout_fails_and_those_behind_it_go_back_uncounted(stage: Stage) -> None:
    recorder = Recorder(stage)
    agent = stage.agent(concurrency=3, environment=hasty(stage.directory)).wait_running()
    stuck = enqueue(stage, gated(stage.directory / NEVER), timeout=1, max_retry=0)
    behind = [enqueue(stage, timeout=SPARE), enqueue(stage, timeout=SPARE)]
    assert stage.until_state(QUEUE, stuck, "completed", "retry", "archived") == "archived"
    assert stored(stage, stuck).error_msg.startswith(f"{OVER}: it was still running after ")
    for task_id in behind:
        assert stage.until_state(QUEUE, task_id, "completed", "retry", "archived") == "completed"
        assert stored(stage, task_id).retried == 0
    assert recorder.runs() == [stuck, *behind]
    assert len(set(recorder.pids())) == 2  # it was busy with what was over, and was restarted
    assert agent.terminate() == 0


def test_a_process_that_runs_tasks_side_by_side_has_each_timed_by_its_own_start(stage: Stage) -> None:
    recorder = Recorder(stage, threads=4)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=4).wait_running()
    long = enqueue(stage, gated(gate))
    until(recorder.runs, "the long one is running")
    quick = enqueue(stage)
    assert stage.until_state(QUEUE, quick, "completed", "retry", "archived") == "completed"
    # It has answered out of order: what is behind the long one runs, and its time with it.
    stuck = enqueue(stage, gated(stage.directory / NEVER), timeout=1, max_retry=0)
    assert stage.until_state(QUEUE, stuck, "completed", "retry", "archived") == "archived"
    assert stored(stage, stuck).error_msg.startswith(f"{OVER}: it was still running after ")
    gate.touch()
    assert stage.until_state(QUEUE, long, "completed", "retry", "archived") == "completed"
    assert stored(stage, long).retried == 0
    assert agent.terminate() == 0


def test_the_time_of_what_was_written_before_a_process_answered_out_of_order_counts_from_writing(stage: Stage) -> None:
    recorder = Recorder(stage, threads=4)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=4).wait_running()
    long = enqueue(stage, gated(stage.directory / NEVER), max_retry=0, timeout=60)
    until(lambda: long in recorder.runs(), "the long one is running")
    stuck = enqueue(stage, gated(stage.directory / NEVER), timeout=1, max_retry=0)
    until(lambda: stuck in recorder.runs(), "the stuck one is running beside it, which nobody can know")
    quick = enqueue(stage, gated(gate))
    until(lambda: quick in recorder.runs(), "so is a third")
    begin = redis_time(stage)
    until(lambda: redis_time(stage) > begin + 2, "more than the timeout of the stuck one has passed")
    assert stage.state(QUEUE, stuck) == "active"
    gate.touch()
    assert stage.until_state(QUEUE, quick, "completed", "retry", "archived") == "completed"
    assert stage.until_state(QUEUE, stuck, "completed", "retry", "archived", patience=5.0) == "archived"
    found = re.search(r"still running after ([0-9.]+) s", stored(stage, stuck).error_msg)
    assert found
    assert float(found[1]) >= 2
    agent.close()


def test_each_process_of_a_pool_has_its_own_turns(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=4, processes=2).wait_running()
    long = [enqueue(stage, gated(gate), timeout=60) for _ in range(2)]
    until(lambda: len(recorder.runs()) == 2, "both processes are busy")
    short = [enqueue(stage, timeout=1, max_retry=0) for _ in range(2)]
    until(lambda: len(stage.ids(QUEUE, "active")) == 4, "each has one waiting")
    begin = redis_time(stage)
    until(lambda: redis_time(stage) > begin + 2, "more than the timeout of those that wait has passed")
    assert len(stage.ids(QUEUE, "active")) == 4
    gate.touch()
    for task_id in (*long, *short):
        assert stage.until_state(QUEUE, task_id, "completed", "retry", "archived") == "completed"
    assert agent.terminate() == 0


def test_the_workers_own_limit_counts_the_run_too(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=2, active_timeout="2s", environment=hasty(stage.directory)).wait_running()
    long = enqueue(stage, gated(gate), timeout=60)
    until(recorder.runs, "the long one is running")
    waits = enqueue(stage, gated(stage.directory / NEVER), timeout=0, max_retry=0)
    until(lambda: waits in stage.ids(QUEUE, "active"), "one waits behind it")
    begin = redis_time(stage)
    until(lambda: redis_time(stage) > begin + 3, "more than the limit has passed")
    assert stage.state(QUEUE, waits) == "active"
    gate.touch()
    assert stage.until_state(QUEUE, long, "completed", "retry", "archived") == "completed"
    assert stage.until_state(QUEUE, waits, "completed", "retry", "archived") == "archived"
    assert recorder.runs() == [long, waits]
    assert agent.terminate() == 0


# The deadline.


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_task_whose_deadline_is_over_when_it_is_taken_is_not_run(stage: Stage, mode: str) -> None:
    recorder = Recorder(stage, mode=mode)
    past = int(redis_time(stage)) - 1
    late = [enqueue(stage, deadline=past, timeout=600), enqueue(stage, deadline=past, max_retry=0)]
    fresh = enqueue(stage, deadline=past + 600)
    agent = stage.agent().wait_running()
    assert stage.until_state(QUEUE, late[0], "completed", "retry", "archived") == "retry"
    assert stage.until_state(QUEUE, late[1], "completed", "retry", "archived") == "archived"
    assert stage.until_state(QUEUE, fresh, "completed", "retry", "archived") == "completed"
    for task_id in late:
        assert stored(stage, task_id).error_msg.startswith(OVER)
    assert stored(stage, late[0]).retried == 1
    assert stage.number(QUEUE, "failed") == 2
    assert recorder.runs() == [fresh]
    assert agent.terminate() == 0


def test_a_task_whose_deadline_passed_while_its_queue_was_paused_is_not_run(stage: Stage) -> None:
    recorder = Recorder(stage)
    stage.redis.set(keys.queue_keys(QUEUE).paused, 1)
    agent = stage.agent().wait_running()
    deadline = int(redis_time(stage)) + 1
    late, fresh = enqueue(stage, deadline=deadline, max_retry=0), enqueue(stage)
    until(lambda: redis_time(stage) > deadline, "its deadline is over")
    assert stage.ids(QUEUE, "pending") == [fresh, late]
    stage.redis.delete(keys.queue_keys(QUEUE).paused)
    assert stage.until_state(QUEUE, late, "completed", "retry", "archived") == "archived"
    assert stored(stage, late).error_msg.startswith(OVER)
    assert stage.until_state(QUEUE, fresh, "completed", "retry", "archived") == "completed"
    assert recorder.runs() == [fresh]
    assert agent.terminate() == 0


def test_the_deadline_does_not_wait_for_a_tasks_turn(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=2).wait_running()
    long = enqueue(stage, gated(gate))
    until(recorder.runs, "the long one is running")
    waits = enqueue(stage, deadline=int(redis_time(stage)) + 2, timeout=600, max_retry=0)
    assert stage.until_state(QUEUE, waits, "completed", "retry", "archived") == "archived"
    assert stored(stage, waits).error_msg == f"{OVER}: it was over before the run began"
    assert stage.state(QUEUE, long) == "active"
    gate.touch()
    assert stage.until_state(QUEUE, long, "completed", "retry", "archived") == "completed"
    assert agent.terminate() == 0


def test_in_one_shot_mode_the_start_of_the_process_is_not_the_tasks_time(stage: Stage) -> None:
    slow = """
import json, os, sys, time
time.sleep(2)
print(json.dumps({"status": "ready"}), flush=True)
task = json.loads(sys.stdin.readline())
print(json.dumps({"task_id": task["task_id"], "result": 1, "error": None, "retry": False}), flush=True)
"""
    stage.queue("inference", {"main.py": slow}, mode="one_shot")
    agent = stage.agent(config_file=no_spares(stage)).wait_running()
    ids = [enqueue(stage, timeout=1, max_retry=0) for _ in range(2)]
    for task_id in ids:
        assert stage.until_state(QUEUE, task_id, "completed", "retry", "archived") == "completed"
    assert agent.terminate() == 0


def no_spares(stage: Stage) -> Any:
    path = stage.directory / "config.yml"
    path.write_text("one_shot:\n  prestart: 0\n")
    return path
