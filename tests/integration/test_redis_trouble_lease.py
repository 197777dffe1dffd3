"""A task that is somebody else's now: nothing is written for it, work on it ends, and the log says so."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import psutil

from recorder import Recorder, gated, hasty, leisurely
from runqy_agent.broker import keys
from runqy_agent.demo.client import message
from stage import Agent, Stage, alive, until

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER = "never"


def hand_to_recoverer(stage: Stage, queue: str, task_id: str) -> None:
    """Do what the recoverer of another worker does: the task is to be tried again, in a while."""
    names = keys.queue_keys(queue)
    with stage.redis.pipeline(transaction=True) as pipeline:
        pipeline.zrem(names.lease, task_id)
        pipeline.lrem(names.active, 0, task_id)
        pipeline.zadd(names.retry, {task_id: time.time() + 3600})
        pipeline.hset(names.task(task_id), "state", "retry")
        pipeline.execute()


def hand_to_another_worker(stage: Stage, queue: str, task_id: str) -> None:
    """Do what comes of it when another worker has taken the task again: it holds the task for longer than we asked."""
    stage.redis.zadd(keys.queue_keys(queue).lease, {task_id: time.time() + 7200})


def stored(stage: Stage, queue: str, ids: Sequence[str]) -> dict[str, Any]:
    """All that Redis has about these tasks, and the queue's counters."""
    names, client = keys.queue_keys(queue), stage.redis
    places = {
        task_id: (
            client.hgetall(names.task(task_id)),
            client.zscore(names.lease, task_id),
            client.lpos(names.active, task_id) is not None,
            client.zscore(names.retry, task_id),
        )
        for task_id in ids
    }
    return {**places, "processed": stage.number(queue, "processed"), "failed": stage.number(queue, "failed")}


def until_lost(agent: Agent, ids: Sequence[str], why: str) -> None:
    words = [f"lost task {task_id}, {why}" for task_id in ids]
    until(lambda: all(each in agent.log() for each in words), "the losses are logged")


def test_when_a_process_answers_a_task_whose_lease_was_lost_nothing_is_written_for_it(stage: Stage) -> None:
    queue, gate = "inference.default", stage.directory / "gate"
    recorder = Recorder(stage, threads=3)
    agent = stage.agent(concurrency=3, environment=leisurely(stage.directory)).wait_running()
    ids = stage.client.enqueue_all([message(queue, gated(gate)) for _ in range(3)])
    until(lambda: len(recorder.runs()) == 3, "three tasks are running")
    hand_to_recoverer(stage, queue, ids[0])
    hand_to_another_worker(stage, queue, ids[1])
    before = stored(stage, queue, ids[:2])
    gate.touch()
    assert stage.until_state(queue, ids[2], "completed", "archived", "retry") == "completed"
    until_lost(agent, ids[:2], "it is no longer held")
    assert stored(stage, queue, ids[:2]) == {**before, "processed": 1}  # the one that was still held
    new = stage.client.enqueue(queue, b"{}")
    assert stage.until_state(queue, new, "completed", "archived", "retry") == "completed"
    counted = {"succeeded": 4, "failed": 0, "put_back": 0, "lost": 2}
    until(lambda: json.loads(agent.record()["tasks"]) == counted, "the losses are counted in the record")
    assert agent.terminate() == 0
    assert stored(stage, queue, ids[:2]) == {**before, "processed": 2}


def test_work_on_a_task_ends_when_its_lease_is_found_to_be_lost(stage: Stage) -> None:
    modes = {"steady": "long_running", "single": "one_shot"}
    queues = {name: f"{name}.default" for name in modes}
    recorders = {name: Recorder(stage, name, mode=mode) for name, mode in modes.items()}
    agent = stage.agent(",".join(modes), concurrency=2, environment=hasty(stage.directory)).wait_running()
    ids = {name: stage.client.enqueue(queue, gated(stage.directory / NEVER)) for name, queue in queues.items()}
    until(lambda: all(recorder.runs() for recorder in recorders.values()), "both tasks are running")
    at_work = [psutil.Process(recorder.pids()[0]) for recorder in recorders.values()]
    hand_to_recoverer(stage, queues["steady"], ids["steady"])
    hand_to_another_worker(stage, queues["single"], ids["single"])
    before = {name: stored(stage, queue, [ids[name]]) for name, queue in queues.items()}
    until_lost(agent, list(ids.values()), "somebody else has taken it over")
    until(lambda: not any(map(alive, at_work)), "the processes that worked on the lost tasks have ended")
    for name, queue in queues.items():
        new = stage.client.enqueue(queue, b"{}")
        assert stage.until_state(queue, new, "completed", "archived", "retry") == "completed"
        assert stored(stage, queue, [ids[name]]) == {**before[name], "processed": 1}
    assert agent.terminate() == 0
