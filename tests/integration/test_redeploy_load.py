"""New code under load: no task fails, is retried or lost, and the new code takes over.

RUNQY_LOAD_SECONDS says for how long tasks are sent before the new commit, and after the new code's first result (2).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from stage import PATIENCE, until

if TYPE_CHECKING:
    import pytest

    from stage import Stage

QUEUE = "inference.default"
SECONDS = float(os.environ.get("RUNQY_LOAD_SECONDS", "2"))
RATE = 200
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
    """Sends tasks at a steady rate, until it is told to stop."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self._client = stage.client
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(1 / RATE):
            self.ids.append(self._client.enqueue(QUEUE, b"%d" % len(self.ids)))

    def send(self, seconds: float) -> None:
        """Wait until so many more tasks were sent as are sent in that time."""
        number = len(self.ids) + int(RATE * seconds)
        until(lambda: len(self.ids) >= number, f"{number} tasks were sent", PATIENCE + 10 * seconds)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def newest_version(stage: Stage, task_ids: list[str]) -> int:
    """The newest version of the code that has completed one of these tasks."""
    infos = [stage.client.info(QUEUE, task_id) for task_id in task_ids]
    return max((json.loads(info.result)["version"] for info in infos if info and info.result), default=0)


def test_a_new_commit_under_load_loses_fails_and_repeats_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"main.py": AUTHOR, "requirements.txt": "# nothing\n"}
    repository = stage.queue("inference", files)
    agent = stage.agent(concurrency=10).wait_running()
    client = Client(stage)
    client.start()
    client.send(SECONDS)
    repository.commit({"main.py": AUTHOR.replace("VERSION = 1", "VERSION = 2")})
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: newest_version(stage, client.ids[-20:]) == 2, "the new code has completed a task")
    client.send(SECONDS)
    client.stop()
    total = len(client.ids)
    until(lambda: len(stage.ids(QUEUE, "completed")) == total, "all tasks are completed", PATIENCE + 10 * SECONDS)
    results = []
    for task_id in client.ids:
        info = stage.client.info(QUEUE, task_id)
        assert info is not None
        assert (info.state, info.message.retried, info.message.error_msg) == ("completed", 0, "")
        results.append(json.loads(info.result or b""))
    new = [result for result in results if result["version"] == 2]
    assert 0 < len(new) < total
    assert stage.number(QUEUE, "failed") == 0
    assert stage.number(QUEUE, "processed") == total  # each ran once
    delay = min(result["at"] - result["ready"] for result in new)
    figures = (
        f"{total} tasks at {RATE}/s, {len(new)} of them by the new code, the first {delay:.3f} s after it was ready"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}\n")
    assert agent.terminate() == 0
