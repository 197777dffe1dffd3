"""The task author's process in the soak: one task after the other, of every kind. It notes every run in a file.

Each line of the file ``RUNS`` is one write, at the file's end whoever else writes to it: ``start`` or ``end``, the
task's id, its retry count, the id of this process, and that of the agent which started it.

A task's payload: its ``kind``; ``ms``, how long it takes; ``text``, which makes it big.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

RUNS = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
AGENT = os.getppid()


def note(what: str, task: dict[str, Any]) -> None:
    os.write(RUNS, f"{what} {task['task_id']} {task['retry_count']} {os.getpid()} {AGENT}\n".encode())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def work(task: dict[str, Any]) -> dict[str, Any]:
    payload, kind = task["payload"], task["payload"]["kind"]
    time.sleep(payload.get("ms", 0) / 1000)
    if kind == "crash" and task["retry_count"] == 0:
        os._exit(3)
    if kind == "hang":
        time.sleep(3600)
    if kind == "flood":
        for number in range(20_000):
            say(f"line {number}: {{ nothing that anybody would take for an answer")
    if kind == "fails":
        return {"error": "meant to fail for good", "retry": False}
    if kind == "retry" and task["retry_count"] < 2:
        return {"error": "meant to be tried again", "retry": True}
    return {"result": payload.get("text", "done"), "error": None}


say('{"status": "ready"}')
for line in sys.stdin:
    task = json.loads(line)
    note("start", task)
    answer = work(task)
    note("end", task)
    say(json.dumps({"task_id": task["task_id"], **answer}))
