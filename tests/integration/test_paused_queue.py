"""A queue that is paused in asynq's way stays untouched, also by workers that were already waiting."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from recorder import Recorder, gated
from runqy_agent.broker import keys
from runqy_agent.demo.client import message
from stage import Stage, until

if TYPE_CHECKING:
    import redis

QUEUE = "inference.default"
NAMES = keys.queue_keys(QUEUE)
TASKS = 5
LOOKS = 3
"""How often workers must have found the queue paused, before what they have left alone proves anything."""
WRITES = {"BLMOVE", "DEL", "HDEL", "HSET", "LMOVE", "LPUSH", "LREM", "RPUSH", "RPOP", "BRPOPLPUSH", "RPOPLPUSH", "ZADD"}


class Commands:
    """What Redis is asked to do, also by scripts, as MONITOR shows it."""

    def __init__(self, client: redis.Redis) -> None:
        self.seen: list[list[str]] = []
        self.asked: list[tuple[str, list[str]]] = []
        self._by_scripts: list[list[str]] = []
        self._client = client
        self._end = f"end-{id(self)}"
        self._thread = threading.Thread(target=self._collect, daemon=True, name="monitor")
        self._thread.start()
        until(lambda: client.echo("begin") and self.seen, "MONITOR shows commands")

    def _collect(self) -> None:
        with self._client.monitor() as monitor:
            for entry in monitor.listen():
                command: Any = entry
                words = command["command"].split()
                if words[-1] == self._end:
                    return
                words[0] = words[0].upper()
                self.seen.append(words)
                if command["client_type"] == "lua":
                    self._by_scripts.append(words)
                else:
                    self.asked.append((command["client_port"], words))

    def looks(self) -> list[str]:
        """Over which connection it was asked whether the queue is paused, while waiting for a task, each time."""
        return [port for port, words in self.asked if words[0] == "EXISTS" and NAMES.paused in words]

    def writes(self) -> list[list[str]]:
        """What was to change a task of the queue, or those that are running. Clients enqueue without a script."""
        of_tasks = [words for words in self._by_scripts if words[1:] and words[1].startswith(NAMES.task_prefix)]
        of_running = [words for words in self.seen if {NAMES.active, NAMES.lease} & set(words[1:4])]
        return [words for words in (*of_tasks, *of_running) if words[0] in WRITES]

    def close(self) -> None:
        """End it."""
        self._client.echo(self._end)
        self._thread.join()


def check_that_it_is_left_alone(stage: Stage, commands: Commands, ids: list[str], workers: int = 1) -> None:
    """The workers look at the paused queue several times, and nothing of it changes: these tasks stay pending."""
    earlier, before = len(commands.looks()), everything(stage)
    watchers = min(workers, 2)

    def looked() -> bool:
        looks = commands.looks()[earlier:]
        return len(set(looks)) == watchers and len(looks) >= LOOKS * watchers

    until(looked, "whoever watches it has looked, several times")
    commands.close()
    assert commands.writes() == []
    assert everything(stage) == before
    assert (before["pending"], before["active"], before["lease"]) == (ids[::-1], [], [])


def everything(stage: Stage) -> dict[str, Any]:
    """What is in the queue, in its order."""
    client = stage.redis
    found: dict[str, Any] = {part: stage.ids(QUEUE, part) for part in ("pending", "active", "lease")}
    tasks = {task_id: client.hgetall(NAMES.task(task_id)) for task_id in found["pending"]}
    return {**found, "tasks": tasks, "processed": stage.number(QUEUE, "processed")}


def pause(stage: Stage) -> None:
    stage.redis.set(NAMES.paused, int(time.time()))


def go_on(stage: Stage) -> None:
    stage.redis.delete(NAMES.paused)


def until_all_wait(stage: Stage, workers: int) -> None:
    """Wait until every worker waits for a task: two watch the queue, the others block until they are woken."""

    def waiting() -> bool:
        clients: Any = stage.redis.info("clients")
        watchers = min(workers, 2)
        return (clients["tracking_clients"], clients["blocked_clients"]) == (watchers, workers - watchers)

    until(waiting, "every worker waits")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_wait_when_their_queue_is_paused_leave_new_tasks_alone_until_it_goes_on(
    stage: Stage, workers: int
) -> None:
    recorder = Recorder(stage)
    for agent in [stage.agent() for _ in range(workers)]:
        agent.wait_running()
    until_all_wait(stage, workers)
    commands = Commands(stage.redis)
    pause(stage)
    ids = stage.client.enqueue_all([message(QUEUE, b"{}") for _ in range(TASKS)])
    check_that_it_is_left_alone(stage, commands, ids, workers)
    assert recorder.runs() == []
    go_on(stage)
    until(lambda: stage.redis.zcard(NAMES.completed) == TASKS, "all tasks are completed")
    assert (recorder.runs() if workers == 1 else sorted(recorder.runs())) == (ids if workers == 1 else sorted(ids))
    assert (stage.number(QUEUE, "processed"), stage.number(QUEUE, "failed")) == (TASKS, 0)


def test_a_queue_that_is_paused_while_a_worker_is_at_work_gives_nothing_after_the_task_that_was_running(
    stage: Stage,
) -> None:
    recorder, gate = Recorder(stage), stage.directory / "gate"
    stage.agent().wait_running()
    ids = stage.client.enqueue_all([message(QUEUE, payload) for payload in (gated(gate), b"{}", b"{}")])
    until(recorder.runs, "the first task is running")
    pause(stage)
    gate.touch()
    stage.until_state(QUEUE, ids[0], "completed")
    check_that_it_is_left_alone(stage, Commands(stage.redis), ids[1:])
    assert recorder.runs() == ids[:1]
    go_on(stage)
    until(lambda: stage.redis.zcard(NAMES.completed) == len(ids), "all tasks are completed")
    assert recorder.runs() == ids
