"""asynq itself, by way of the Go program beside this file, and what a task's author writes for these tests."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from runqy_agent.broker import keys
from stage import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stage import Agent, Stage

AUTHOR = """
import json, os, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    with open(os.environ["RUNS"], "a") as runs:
        runs.write("agent " + task["task_id"] + "\\n")
    wishes, error = task["payload"], None
    while "wait_for" in wishes and not os.path.exists(wishes["wait_for"]):
        time.sleep(0.005)
    if "needs" in wishes and not os.path.exists(wishes["needs"]):
        error = "something is missing"
    answer = {"task_id": task["task_id"], "result": {"by": "agent", "line": task}, "error": error}
    print(json.dumps(answer | {"retry": wishes.get("retry", False)}), flush=True)
"""
"""Writes down every task it begins, and gives back the line that it read."""


class PeerError(Exception):
    """asynq refused; ``str()`` of it is the Go name of the error where asynq exports one."""


class AsynqServer:
    """A running asynq server on one queue."""

    def __init__(self, peer: Peer, command: list[str], log_path: Path) -> None:
        self._peer = peer
        self.log_path = log_path
        self._log = log_path.open("ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        self.pid = self.process.pid

    def wait_running(self) -> AsynqServer:
        """Wait until the Inspector lists it."""

        def listed() -> bool:
            assert self.process.poll() is None, f"the asynq server ended:\n{self.log_path.read_text()}"
            return self.pid in {server["PID"] for server in self._peer.servers()}

        until_seen(listed, "the asynq server is running")
        return self

    def terminate(self) -> int:
        """SIGTERM. Returns the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill()
        self._log.close()


class Peer:
    """asynq's client and Inspector, and asynq servers on request.

    Tasks, servers and queues are what asynq's Go structs hold, under Go's field names; views.go tells the units.
    """

    def __init__(self, program: Path, redis_address: str, directory: Path) -> None:
        self.runs = directory / "runs"
        self._command = [str(program), "-redis", redis_address]
        self._directory = directory
        self._servers: list[AsynqServer] = []

    def call(self, *words: object) -> Any:
        """Run one command. Raises PeerError with asynq's reason."""
        command = [*self._command, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode in {0, 1}, done.stderr
        answer = json.loads(done.stdout)
        if done.returncode:
            raise PeerError(answer["error"])
        return answer

    def enqueue_all(self, queue: str, payload: object = None, **options: Any) -> list[Any]:
        """Enqueue ``count`` tasks; ``asynqpeer enqueue -help`` lists the options."""
        words = ["-queue", queue, "-payload", json.dumps(payload or {})]
        for name, value in options.pop("headers", {}).items():
            words += ["-header", f"{name}={value}"]
        for name, value in options.items():
            words += ["-" + name.replace("_", "-"), str(value)]
        answer: list[Any] = self.call("enqueue", *words)
        return answer

    def enqueue(self, queue: str, payload: object = None, **options: Any) -> Any:
        """Enqueue one task. Returns its TaskInfo."""
        return self.enqueue_all(queue, payload, **options)[0]

    def task(self, queue: str, task_id: str) -> Any:
        """A TaskInfo."""
        return self.call("task", queue, task_id)

    def ids(self, queue: str, state: str) -> list[str]:
        """The ids that the Inspector lists in one state, in its order."""
        return [task["ID"] for task in self.call("tasks", queue, state)]

    def servers(self) -> list[Any]:
        """ServerInfos."""
        answer: list[Any] = self.call("servers")
        return answer

    def queue_info(self, queue: str) -> Any:
        """A QueueInfo."""
        return self.call("queues")[queue]

    def totals(self, queue: str) -> tuple[int, int]:
        """Processed and failed, by the Inspector's history. Two days, lest midnight come between."""
        days = self.call("history", queue, 2)
        return sum(day["Processed"] for day in days), sum(day["Failed"] for day in days)

    def server(self, queue: str, concurrency: int = 1) -> AsynqServer:
        """Start an asynq server."""
        options = ["-queue", queue, "-concurrency", str(concurrency), "-runs", str(self.runs)]
        log_path = self._directory / f"asynq-{len(self._servers)}.log"
        server = AsynqServer(self, [*self._command, "serve", *options], log_path)
        self._servers.append(server)
        return server

    def begun(self) -> list[tuple[str, str]]:
        """For every task begun, in order: ``agent`` or ``asynq``, and its id. Others than ours need AUTHOR's code."""
        if not self.runs.exists():
            return []
        pairs = [line.split() for line in self.runs.read_text().splitlines()]
        return [(by, task_id) for by, task_id in pairs]

    def close(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.close()


def until_seen(condition: Callable[[], Any], what: str) -> Any:
    """``until`` for what asynq is asked: that takes a process each time, so it is not asked all the time."""

    def look() -> Any:
        value = condition()
        if not value:
            time.sleep(0.1)
        return value

    return until(look, what)


def start_agent(stage: Stage, peer: Peer, *, store_results: bool = True, **settings: Any) -> Agent:
    """Start a worker that runs AUTHOR's code, and wait until it does."""
    if "inference" not in stage.server.queues:
        runs = {"RUNS": str(peer.runs)}
        stage.queue("inference", {"main.py": AUTHOR}, env_vars=runs, redis_storage=store_results)
    return stage.agent(**settings).wait_running()


def lose(agent: Agent) -> None:
    """End a worker as the loss of its host would: at once, with all its processes."""
    children = psutil.Process(agent.pid).children(recursive=True)
    agent.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def let_lease_end(stage: Stage, queue: str, *task_ids: str) -> None:
    """Make it so that the leases ended long enough ago for any recoverer to act."""
    seconds, _ = stage.redis.time()
    changed = stage.redis.zadd(keys.queue_keys(queue).lease, dict.fromkeys(task_ids, seconds - 31), xx=True, ch=True)
    assert changed == len(task_ids)
