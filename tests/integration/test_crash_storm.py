"""A process that dies on every third task: the guilty are blamed, the innocent do not notice, the agent does not grow.

RUNQY_STORM_TASKS says how many tasks (1000). Their retries are made due by the test: asynq's delays are long.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import psutil

from runqy_agent.demo.client import message
from stage import until

if TYPE_CHECKING:
    import pytest

    from stage import Stage

QUEUE = "inference.default"
TASKS = int(os.environ.get("RUNQY_STORM_TASKS", "1000"))
STUBBORN = 30
"""Every so manieth task allows two retries, and is given up when it has crashed its process as often."""
MORE_MEMORY = 8 * 2**20
AUTHOR = """
import json, os, sys

print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if task["payload"] % 3 == 0:
        print("dying of", task["payload"], file=sys.stderr, flush=True)
        os._exit(3)
    print(json.dumps({"task_id": task["task_id"], "result": task["payload"]}), flush=True)
"""


def test_a_crash_storm_costs_innocent_tasks_nothing_and_the_agent_no_memory(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.queue("inference", {"main.py": AUTHOR, "requirements.txt": "# nothing\n"})
    agent = stage.agent(
        concurrency=16,
        recovery_max_restarts=10 * TASKS,
        recovery_initial_delay="1ms",
        recovery_max_delay="1ms",
    ).wait_running()
    process = psutil.Process(agent.pid)
    warm = _storm(stage, range(60))  # whatever is loaded once is loaded now
    before = process.memory_info().rss
    tasks = warm | _storm(stage, range(60, TASKS))
    after = process.memory_info().rss
    for task_id, number in tasks.items():
        info = stage.client.info(QUEUE, task_id)
        assert info is not None
        if number % 3:
            assert (info.state, info.message.retried, info.message.error_msg) == ("completed", 0, ""), number
            assert json.loads(info.result or b"") == number
        else:
            times = "2 times" if number % STUBBORN == 0 else "1 time"
            assert info.state == "archived"
            error = f"crashed the process {times}: the process exited with code 3\ndying of {number}"
            assert info.message.error_msg == error
    assert agent.record()["status"] == "running"
    deadly = sum(not number % 3 for number in tasks.values())
    figures = f"{before / 2**20:.1f} MiB before and {after / 2**20:.1f} MiB after"
    with capsys.disabled():
        sys.stdout.write(f"\n{TASKS} tasks, {deadly} of them deadly: the agent used {figures}\n")
    assert after - before < MORE_MEMORY
    assert agent.terminate() == 0


def _storm(stage: Stage, numbers: range) -> dict[str, int]:
    """Enqueue tasks and wait until all have ended for good."""
    messages = [message(QUEUE, b"%d" % number, max_retry=0 if number % STUBBORN else 2) for number in numbers]
    tasks = dict(zip(stage.client.enqueue_all(messages), numbers, strict=True))

    def ended() -> bool:
        for task_id in stage.ids(QUEUE, "retry"):
            stage.client.retry_now(QUEUE, task_id)
        return len(stage.ids(QUEUE, "completed")) + len(stage.ids(QUEUE, "archived")) == numbers.stop

    until(ended, "all tasks have ended", patience=60 + TASKS * 0.5)
    return tasks
