"""The task author's process in the chaos tests: works on many tasks at once and notes every run in a file.

Each line of the file ``RUNS`` is one write, at the file's end whoever else writes to it: ``start`` or ``end``, the
task's id, its retry count, the id of this process, that of the agent which started it, and the time (unix seconds).

A task's payload: ``ms``, how long it takes; ``how`` it ends: ``ok``, ``again`` (fails and asks to be retried, the first
time) or ``archived``; ``gate``, a path: it lasts until ``<gate>.<retry count>`` exists.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

AGENT = os.getppid()
RUNS = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
TASKS: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()


def note(what: str, task: dict[str, Any]) -> None:
    line = f"{what} {task['task_id']} {task['retry_count']} {os.getpid()} {AGENT} {time.time():.6f}\n"
    os.write(RUNS, line.encode())


def say(line: dict[str, Any]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")  # shorter than what a pipe takes in one piece


def work(task: dict[str, Any]) -> dict[str, Any]:
    payload = task["payload"]
    if "gate" in payload:
        gate = Path(f"{payload['gate']}.{task['retry_count']}")
        while not gate.exists():
            time.sleep(0.02)
    time.sleep(payload.get("ms", 0) / 1000)
    if payload["how"] == "archived":
        return {"error": "meant to fail for good", "retry": False}
    if payload["how"] == "again" and task["retry_count"] == 0:
        return {"error": "meant to be tried again", "retry": True}
    return {"result": 1, "error": None, "retry": False}


def serve() -> None:
    while True:
        task = TASKS.get()
        note("start", task)
        answer = work(task)
        note("end", task)
        say({"task_id": task["task_id"], **answer})


def main() -> None:
    for _ in range(int(os.environ["THREADS"])):
        threading.Thread(target=serve, daemon=True).start()
    say({"status": "ready"})
    for line in sys.stdin:
        TASKS.put(json.loads(line))
    os._exit(0)  # the agent is gone: nobody waits for what is still running


if __name__ == "__main__":
    main()
