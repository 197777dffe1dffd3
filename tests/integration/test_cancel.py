"""Tasks that somebody wants cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from recorder import Recorder, gated, hasty
from stage import Stage, alive, until

if TYPE_CHECKING:
    from runqy_agent.demo.client import TaskInfo

QUEUE = "inference.default"
NEVER = "never"


def cancel(stage: Stage, task_id: str) -> None:
    """Do what asynq's Inspector does, once somebody listens."""
    until(lambda: stage.redis.publish("asynq:cancel", task_id), "the worker has subscribed")


def info(stage: Stage, task_id: str) -> TaskInfo:
    found = stage.client.info(QUEUE, task_id)
    assert found is not None
    return found


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_cancelled_task_fails_with_the_reason_and_work_on_it_ends(stage: Stage, mode: str) -> None:
    recorder = Recorder(stage, mode=mode)
    agent = stage.agent(environment=hasty(stage.directory)).wait_running()
    running = stage.client.enqueue(QUEUE, gated(stage.directory / NEVER), max_retry=1)
    until(recorder.runs, "the task is running")
    at_work = psutil.Process(recorder.pids()[0])
    cancel(stage, "the id of another task")
    cancel(stage, running)
    stage.until_state(QUEUE, running, "retry")
    stored = info(stage, running).message
    assert stored.error_msg == "context canceled: the task was cancelled through asynq:cancel"
    assert (stored.retried, stage.number(QUEUE, "failed")) == (1, 1)
    until(lambda: not alive(at_work), "its process has ended")
    after = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, after, "completed", "archived", "retry") == "completed"
    assert agent.terminate() == 0


def test_cancelling_a_task_that_waits_for_its_turn_does_not_disturb_the_one_that_is_running(stage: Stage) -> None:
    recorder = Recorder(stage)
    gate = stage.directory / "gate"
    agent = stage.agent(concurrency=3, environment=hasty(stage.directory)).wait_running()
    running = stage.client.enqueue(QUEUE, gated(gate))
    until(recorder.runs, "the first task is running")
    written_ahead = stage.client.enqueue(QUEUE, gated(stage.directory / NEVER), max_retry=0)
    until(lambda: written_ahead in stage.ids(QUEUE, "active"), "the second one is taken")
    pid = recorder.pids()[0]
    cancel(stage, written_ahead)
    stage.until_state(QUEUE, written_ahead, "archived")
    # Longer than the agent bears with a process that is busy in vain: what runs meanwhile shows that time has passed.
    other = Recorder(stage, "clock")
    clock = stage.agent("clock").wait_running()
    for _ in range(5):
        task_id = stage.client.enqueue("clock.default", b'{"ms": 300}')
        stage.until_state("clock.default", task_id, "completed")
    assert other.runs()
    assert recorder.pids() == [pid]
    gate.touch()
    assert stage.until_state(QUEUE, running, "completed", "archived", "retry") == "completed"
    assert recorder.runs().count(running) == 1
    # Now it is the turn of the cancelled one, which never ends: the process is restarted.
    after = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, after, "completed", "archived", "retry") == "completed"
    assert recorder.pids()[-1] != pid
    assert agent.terminate() == 0
    assert clock.terminate() == 0


def test_a_worker_subscribes_again_after_its_subscription_was_dropped(stage: Stage) -> None:
    recorder = Recorder(stage)
    stage.agent(environment=hasty(stage.directory)).wait_running()
    running = stage.client.enqueue(QUEUE, gated(stage.directory / NEVER), max_retry=0)
    until(recorder.runs, "the task is running")
    until(lambda: stage.redis.client_kill_filter(_type="pubsub"), "there was a subscription, and it is dropped")
    cancel(stage, running)
    stage.until_state(QUEUE, running, "archived")
