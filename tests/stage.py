"""A stage for whole workers: a real Redis, a registration server, Git repositories, and agents as child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from runqy_agent.broker import keys
from runqy_agent.demo.client import TaskClient
from runqy_agent.demo.registration_server import QueueDefinition, RegistrationServer
from runqy_agent.demo.repositories import GitRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import redis

API_KEY = "stage-api-key-1234"
PATIENCE = 90.0
"""Seconds a condition may take to come true. Passing tests take a fraction; it is generous for slow machines."""

ECHO = """
import os, sys, time
from runqy_python import RetryableError, load, run, run_once, task

@load
def setup():
    print("loading", flush=True)
    return {"pid": os.getpid()}

@task
def work(payload, ctx):
    if not isinstance(payload, dict):
        return {"got": payload}
    print("working on", payload)
    if "sleep" in payload:
        time.sleep(payload["sleep"])
    if "wait_for" in payload:
        while not os.path.exists(payload["wait_for"]):
            time.sleep(0.005)
    if payload.get("retry"):
        raise RetryableError(payload["retry"])
    if payload.get("fail"):
        raise ValueError(payload["fail"])
    if payload.get("size"):
        return "x" * payload["size"]
    if payload.get("die"):
        print("about to die", file=sys.stderr, flush=True)
        os._exit(payload["die"])
    return {"echo": payload, "pid": ctx["pid"]}

if __name__ == "__main__":
    RUN()
"""


def author_code(mode: str = "long_running") -> dict[str, str]:
    """Files of a task author, written with the SDK from PyPI."""
    run = "run_once" if mode == "one_shot" else "run"
    return {"main.py": ECHO.replace("RUN()", f"{run}()"), "requirements.txt": "runqy-python\n"}


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until a condition is true and return what it returned."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain: {what}")
        time.sleep(0.002)


def alive(process: psutil.Process) -> bool:
    """Whether a process has not ended yet, reaped or not."""
    with suppress(psutil.NoSuchProcess):  # also between these two questions
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Agent:
    """A running ``runqy-agent run``."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        log_path: Path,
        redis_client: redis.Redis,
        stderr: int | None = None,
    ) -> None:
        self.log_path = log_path
        self._redis = redis_client
        self._log = log_path.open("ab")
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log if stderr is None else stderr,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def record(self) -> dict[str, str]:
        """Its record for the runqy server; empty if there is none."""
        for key in self._redis.scan_iter(f"asynq:workers:*:{self.pid}:*", _type="HASH"):
            found: Any = self._redis.hgetall(key)
            return {name.decode(): value.decode() for name, value in found.items()}
        return {}

    def wait_running(self) -> Agent:
        """Wait until it says that it is running; fails at once if it ends."""

        def running() -> bool:
            assert self.process.poll() is None, f"the agent ended with {self.process.returncode}:\n{self.log()}"
            return self.record().get("status") == "running"

        until(running, "the agent is running")
        return self

    def log(self) -> str:
        """What it has logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> int:
        """SIGTERM. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill -9, the agent alone: its process notices by the closed pipes."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for its end. Returns the exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent does not end:\n{self.log()}") from None

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            children = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for child in children:
                with suppress(psutil.NoSuchProcess):  # many end by themselves when their pipes close
                    child.kill()
        self._log.close()


class Stage:
    """Everything a worker needs, and agents on request."""

    def __init__(self, directory: Path, deployments: Path, redis_client: redis.Redis, redis_address: str) -> None:
        self.directory = directory
        self.redis = redis_client
        self.client = TaskClient(redis_client)
        self.server = RegistrationServer(redis_address, API_KEY, [])
        self._deployments = deployments
        self.agents: list[Agent] = []

    def queue(
        self,
        name: str,
        files: Mapping[str, str] | None = None,
        sub_queues: Mapping[str, int] | None = None,
        mode: str = "long_running",
        **deployment: Any,
    ) -> GitRepository:
        """Define a parent queue with the code of its author. ``deployment`` overrides what the server says."""
        repository = GitRepository(self.directory / f"{name}.git", files or author_code(mode))
        definition = {
            "git_url": repository.url,
            "branch": "main",
            "code_path": "",
            "startup_cmd": "python main.py",
            "env_vars": {},
            "startup_timeout_secs": 60,
            "mode": mode,
            "redis_storage": True,
        }
        self.server.queues[name] = QueueDefinition(name, definition | deployment, dict(sub_queues or {}))
        return repository

    def agent(self, queues: str = "inference", **settings: Any) -> Agent:
        """Start an agent.

        ``settings`` are environment variables without ``RUNQY_``, in lower case; ``config_file`` is a configuration,
        ``environment`` holds other variables, ``stderr`` is where its log goes instead of a file.
        """
        environment = {
            "RUNQY_SERVER_URL": self.server.url,
            "RUNQY_API_KEY": API_KEY,
            "RUNQY_QUEUES": queues,
            "RUNQY_DEPLOYMENT_DIR": str(self._deployments),
            "RUNQY_LOG_FORMAT": "text",
            "RUNQY_STATUS_LISTEN": "",  # the default address can be had only once
        }
        config_file = settings.pop("config_file", None)
        wrapper = settings.pop("wrapper", [])
        environment |= settings.pop("environment", {})
        stderr = settings.pop("stderr", None)
        environment |= {f"RUNQY_{name.upper()}": str(value) for name, value in settings.items()}
        command = [*wrapper, sys.executable, "-m", "runqy_agent", "run"]
        command += ["--config", str(config_file)] if config_file else []
        agent = Agent(command, environment, self.directory / f"agent-{len(self.agents)}.log", self.redis, stderr)
        self.agents.append(agent)
        return agent

    def follow(self, redis_client: redis.Redis) -> None:
        """Look at another Redis from now on."""
        self.redis = redis_client
        self.client = TaskClient(redis_client)

    def state(self, queue: str, task_id: str) -> str:
        """The state of a task; empty if it is not in Redis any more."""
        info = self.client.info(queue, task_id)
        return info.state if info else ""

    def until_state(self, queue: str, task_id: str, *states: str, patience: float = PATIENCE) -> str:
        """Wait until a task is in one of these states."""

        def reached() -> str:
            state = self.state(queue, task_id)
            return state if state in states else ""

        found: str = until(reached, f"task {task_id} is {' or '.join(states)}", patience)
        return found

    def ids(self, queue: str, part: str) -> list[str]:
        """The ids in one part of a queue (``pending``, ``active``, ``retry``…), left to right or lowest score first."""
        key = getattr(keys.queue_keys(queue), part)
        if part in {"pending", "active"}:
            listed: Any = self.redis.lrange(key, 0, -1)
        else:
            listed = self.redis.zrange(key, 0, -1)
        return [item.decode() for item in listed]

    def number(self, queue: str, counter: str) -> int:
        """``processed`` or ``failed`` of a queue."""
        value: Any = self.redis.get(getattr(keys.queue_keys(queue), counter))
        return int(value or 0)

    def close(self) -> None:
        """End every agent and the server."""
        for agent in self.agents:
            agent.close()
        self.server.close()
