"""What the benchmarks measure on: a redis-server, a registration server, a Git repository, and an agent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from runqy_agent.demo.client import TaskClient
from runqy_agent.demo.redis_server import RedisServer
from runqy_agent.demo.registration_server import QueueDefinition, RegistrationServer
from runqy_agent.demo.repositories import GitRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

API_KEY = "benchmark-key"
PARENT = "bench"
PATIENCE = 300.0


class Rig:
    """Everything a worker needs, on this machine."""

    def __init__(self, directory: Path, files: Mapping[str, str], queues: Mapping[str, int], **more: Any) -> None:
        """Start the servers.

        Args:
            directory: for the repository and the deployments.
            files: the code of the task author; it starts with ``main.py``.
            queues: sub-queue of ``bench`` to priority.
            more: what else the server says of the deployment.
        """
        self.directory = directory
        self.redis = RedisServer()
        self.client = TaskClient(self.redis.client())
        repository = GitRepository(directory / "repo", files)
        deployment: dict[str, Any] = {"git_url": repository.url, "branch": "main", "startup_cmd": "python main.py"}
        definition = QueueDefinition(PARENT, deployment | more, dict(queues))
        self.server = RegistrationServer(self.redis.address, API_KEY, [definition])

    def start(self, concurrency: int, *settings: str) -> subprocess.Popen[bytes]:
        """Start an agent and wait until it is running.

        Args:
            concurrency: of the worker.
            settings: more, as ``section.key=value``.
        """
        environment = {
            "RUNQY_SERVER_URL": self.server.url,
            "RUNQY_API_KEY": API_KEY,
            "RUNQY_QUEUES": PARENT,
            "RUNQY_CONCURRENCY": str(concurrency),
            "RUNQY_DEPLOYMENT_DIR": str(self.directory / "deployment"),
            "RUNQY_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "runqy_agent", "run"]
        for setting in settings:
            command += ["--set", setting]
        agent = subprocess.Popen(command, env={**os.environ, **environment})
        self.until(lambda: self._status() == b"running", agent)
        return agent

    def _status(self) -> Any:
        for key in self.client.redis.scan_iter("asynq:workers:*", _type="HASH"):
            return self.client.redis.hget(key, "status")
        return None

    def until(self, condition: Callable[[], object], agent: subprocess.Popen[bytes], pause: float = 0.005) -> None:
        """Wait for a condition; give up when the agent has ended."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the agent ended, or took too long")
            time.sleep(pause)

    def close(self) -> None:
        """End what was started."""
        self.server.close()
        self.redis.close()
