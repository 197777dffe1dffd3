"""Programs of a task author that note their runs, and an agent in a hurry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Stage

COUNTING = """
import json, os, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    time.sleep(0.002)
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(task["task_id"] + "\\n")
    print(json.dumps({"task_id": task["task_id"], "result": 1, "error": None, "retry": False}), flush=True)
"""
"""Works on one task at a time, and notes its id in the file ``RUNS`` when it is through with it."""

RECORDER = """
import json, os, queue, sys, threading, time

tasks = queue.SimpleQueue()
runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def say(line):
    os.write(1, json.dumps(line).encode() + b"\\n")

def work():
    while True:
        task = tasks.get()
        os.write(runs, f"{task['task_id']} {os.getpid()}\\n".encode())
        gate = task["payload"].get("gate")
        while gate and not os.path.exists(gate):
            time.sleep(0.005)
        time.sleep(task["payload"].get("ms", 0) / 1000)
        say({"task_id": task["task_id"], "result": 1, "error": None, "retry": False})

for _ in range(int(os.environ["THREADS"])):
    threading.Thread(target=work, daemon=True).start()
say({"status": "ready"})
for line in sys.stdin:
    tasks.put(json.loads(line))
os._exit(0)
"""
"""A task author's process that works on ``THREADS`` tasks at once and notes each run in the file ``RUNS``.

A payload may hold ``gate``, a path whose appearance ends the run, and ``ms``, how long the run takes after that.
"""


class Recorder:
    """A parent queue whose tasks are run by ``RECORDER``."""

    def __init__(self, stage: Stage, name: str = "inference", threads: int = 1, mode: str = "long_running") -> None:
        """Define the queue on a stage."""
        self._runs = stage.directory / f"{name}.runs"
        environment = {"RUNS": str(self._runs), "THREADS": str(threads)}
        stage.queue(name, {"main.py": RECORDER}, mode=mode, env_vars=environment)

    def runs(self) -> list[str]:
        """The ids of the tasks that were begun, each as often as that was."""
        return self._noted()[::2]

    def pids(self) -> list[int]:
        """The ids of the processes that began them."""
        return [int(pid) for pid in self._noted()[1::2]]

    def _noted(self) -> list[str]:
        return self._runs.read_text(encoding="utf-8").split() if self._runs.exists() else []


def gated(gate: Path) -> bytes:
    """The payload of a task that runs until a file appears."""
    return b'{"gate": "%s"}' % str(gate).encode()


HASTE = """
from runqy_agent.loops import leases
from runqy_agent.process import serving

leases.RENEW_BELOW = 29.0
leases.Leases.__init__.__defaults__ = (0.25,)
serving.HUNG_GRACE = 0.5
"""


LEISURE = """
from runqy_agent.broker import broker
from runqy_agent.loops import leases

broker.LEASE_SECONDS = 3600
leases.Leases.__init__.__defaults__ = (3600.0,)
"""


def leisurely(directory: Path) -> dict[str, str]:
    """An environment in which an agent looks at no lease: it learns that one is lost when it writes an outcome."""
    return _patched(directory, LEISURE)


def hasty(directory: Path) -> dict[str, str]:
    """An environment in which an agent renews leases after a second, and does not bear long with a busy process.

    What takes 10 to 20 seconds otherwise, and is the same. ``directory`` is one of the test's own.
    """
    return _patched(directory, HASTE)


def _patched(directory: Path, patch: str) -> dict[str, str]:
    (directory / "sitecustomize.py").write_text(patch, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))}
