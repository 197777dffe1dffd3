"""Processes that misbehave: each ends in a clear error for its task in time, and the next task is served."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from stage import alive, until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Agent, Stage

QUEUE = "inference.default"
TIMEOUT = 3
"""Seconds that the abusive task may run."""
GRACES = 5.0 + 5.0
"""Seconds until its process is told to stop (HUNG_GRACE), and from then until it is killed (STOP_GRACE)."""
SLACK = 60.0
"""Seconds for a slow machine."""
MOST_MEMORY = 120 * 2**20
"""Of an agent whose tasks are small."""
COPIES = 6
"""Of a large task that is dequeued: the reply as it was read and as it was parsed, message, payload, line."""
AUTHOR = """
import json, os, signal, subprocess, sys, time

def answer(task, result=None):
    print(json.dumps({"task_id": task["task_id"], "result": result}), flush=True)

BEFORE
print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if task["payload"] == "abuse":
        ABUSE
    answer(task, os.getpid())
"""


def author(abuse: str, before: str = "") -> dict[str, str]:
    code = AUTHOR.replace("ABUSE", abuse.strip().replace("\n", "\n        ")).replace("BEFORE", before)
    return {"main.py": code, "requirements.txt": "# nothing\n"}


class MemoryWatch(threading.Thread):
    """Looks at how much memory the agent uses, until it ends."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._process = psutil.Process(agent.pid)

    def run(self) -> None:
        with suppress(psutil.Error):
            while True:
                self.most = max(self.most, self._process.memory_info().rss)
                time.sleep(0.02)


class Abuse:
    """An agent whose process misbehaves when it is told to."""

    def __init__(self, stage: Stage, files: dict[str, str], **settings: Any) -> None:
        self.stage = stage
        stage.queue("inference", files)
        self.agent = stage.agent(recovery_initial_delay="50ms", **settings).wait_running()
        self.memory = MemoryWatch(self.agent)
        self.memory.start()

    def error(self, payload: bytes = b'"abuse"', **options: int) -> str:
        """Have the abusive task run. Returns the error that it ends with."""
        options = {"max_retry": 0, "timeout": TIMEOUT, **options}
        task = self.stage.client.enqueue(QUEUE, payload, **options)
        self.stage.until_state(QUEUE, task, "archived", patience=min(options["timeout"], 120) + SLACK)
        info = self.stage.client.info(QUEUE, task)
        assert info is not None
        return info.message.error_msg

    def served(self, in_flight: int = 0) -> None:
        """The next task is served, and the agent has stayed small beside ``in_flight`` bytes of tasks."""
        task = self.stage.client.enqueue(QUEUE, b'"next"')
        self.stage.until_state(QUEUE, task, "completed", patience=GRACES + SLACK)
        assert self.agent.terminate() == 0
        assert 0 < self.memory.most < MOST_MEMORY + COPIES * in_flight


def test_a_gigabyte_without_a_line_break_is_the_tasks_error_and_takes_no_memory(stage: Stage) -> None:
    flood = """
sys.stdout.write('{"task_id": "%s", "result": "' % task["task_id"])
for _ in range(1024):
    sys.stdout.write("x" * 2**20)
print('"}', flush=True)
continue
"""
    abuse = Abuse(stage, author(flood))
    error = abuse.error(timeout=120)
    assert error.startswith("a line of 10737418")
    assert error.endswith("bytes from the process is longer than worker.max_message_bytes (33554432)")
    abuse.served()


def test_a_gigabyte_of_printing_without_a_line_break_does_not_disturb_the_task(stage: Stage) -> None:
    flood = """
for _ in range(1024):
    sys.stdout.write("x" * 2**20)
sys.stdout.write("\\n")
"""
    abuse = Abuse(stage, author(flood))
    task = stage.client.enqueue(QUEUE, b'"abuse"', timeout=120)
    stage.until_state(QUEUE, task, "completed")
    abuse.served()


def test_a_process_that_does_not_read_costs_its_task_and_no_memory(stage: Stage) -> None:
    abuse = Abuse(stage, author("time.sleep(3600)"), concurrency=16)
    large = b'"%s"' % (b"x" * 2**20)
    first = stage.client.enqueue(QUEUE, b'"abuse"', max_retry=0, timeout=TIMEOUT)
    others = [stage.client.enqueue(QUEUE, large) for _ in range(30)]
    stage.until_state(QUEUE, first, "archived", patience=TIMEOUT + SLACK)
    for task in others:  # they were written ahead, or waited: the next process gets them
        stage.until_state(QUEUE, task, "completed", patience=GRACES + SLACK)
        info = stage.client.info(QUEUE, task)
        assert info is not None
        assert info.message.retried == 0
    abuse.served(in_flight=16 * len(large))


@pytest.mark.parametrize("how", ["fork", "daemon"])
def test_what_a_process_leaves_behind_when_it_exits_is_killed(stage: Stage, tmp_path: Path, how: str) -> None:
    pid_file = tmp_path / "left-behind"
    leave = f"""
left = subprocess.Popen(["sleep", "3600"], start_new_session={how == "daemon"})
open({str(pid_file)!r}, "w").write(str(left.pid))
os._exit(5)
"""
    abuse = Abuse(stage, author(leave))
    assert abuse.error(timeout=120) == "crashed the process 1 time: the process exited with code 5"
    left = int(pid_file.read_text())
    until(lambda: not psutil.pid_exists(left) or not alive(psutil.Process(left)), "nothing is left behind")
    abuse.served()


def test_a_process_that_ignores_sigterm_is_killed(stage: Stage) -> None:
    abuse = Abuse(stage, author("time.sleep(3600)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    assert "context deadline exceeded" in abuse.error()
    abuse.served()
    assert "did not stop within 5 s" in abuse.agent.log()


def test_a_process_that_closes_its_output_and_lives_on_is_ended(stage: Stage) -> None:
    abuse = Abuse(stage, author("os.close(1); time.sleep(3600)"))
    error = abuse.error(timeout=3600)
    assert error == (
        "crashed the process 1 time: the process closed its standard output, could not answer any more, and was killed"
    )
    abuse.served()


def test_a_hung_task_is_over_at_its_deadline_whatever_its_process_does(stage: Stage) -> None:
    abuse = Abuse(stage, author("os.kill(os.getpid(), signal.SIGSTOP)"))
    assert "context deadline exceeded" in abuse.error()
    abuse.served()
