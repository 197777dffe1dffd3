"""New code under load: no task fails, is retried or lost, and the new code's results come soon after it is ready.

RUNQY_LOAD_SECONDS says for how long tasks are sent (8); the new commit comes in the middle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from stage import until

if TYPE_CHECKING:
    import pytest

    from stage import Stage

QUEUE = "inference.default"
SECONDS = float(os.environ.get("RUNQY_LOAD_SECONDS", "8"))
RATE = 200
SOON = 5.0
"""Seconds from the new process being ready to its first result."""
AUTHOR = """
import json, sys, time

VERSION = 1
time.sleep(0.5)  # a model is loaded
began = time.time()
print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    time.sleep(0.002)
    result = {"version": VERSION, "ready": began, "at": time.time()}
    print(json.dumps({"task_id": task["task_id"], "result": result}), flush=True)
"""


class Client(threading.Thread):
    """Sends tasks at a steady rate."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self._client = stage.client

    def run(self) -> None:
        begun = time.monotonic()
        for number in range(int(RATE * SECONDS)):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            self.ids.append(self._client.enqueue(QUEUE, b"%d" % number))


def test_a_new_commit_under_load_loses_fails_and_repeats_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"main.py": AUTHOR, "requirements.txt": "# nothing\n"}
    repository = stage.queue("inference", files)
    agent = stage.agent(concurrency=10).wait_running()
    client = Client(stage)
    client.start()
    until(lambda: len(client.ids) >= RATE * SECONDS / 2, "half of the tasks were sent")
    repository.commit({"main.py": AUTHOR.replace("VERSION = 1", "VERSION = 2")})
    agent.process.send_signal(signal.SIGHUP)
    client.join()
    total = len(client.ids)
    until(lambda: len(stage.ids(QUEUE, "completed")) == total, "all tasks are completed")
    results = []
    for task_id in client.ids:
        info = stage.client.info(QUEUE, task_id)
        assert info is not None
        assert (info.state, info.message.retried, info.message.error_msg) == ("completed", 0, "")
        results.append(json.loads(info.result or b""))
    new = [result for result in results if result["version"] == 2]
    assert total == RATE * SECONDS
    assert 0 < len(new) < total
    assert stage.number(QUEUE, "failed") == 0
    assert stage.number(QUEUE, "processed") == total  # each ran once
    delay = min(result["at"] - result["ready"] for result in new)
    figures = (
        f"{total} tasks at {RATE}/s, {len(new)} of them by the new code, the first {delay:.3f} s after it was ready"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}\n")
    assert delay < SOON
    assert agent.terminate() == 0
