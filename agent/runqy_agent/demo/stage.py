"""Everything around the worker: Redis, the registration server, the Git repository, and where files go."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent.config import Config, DeploymentSettings, LogSettings, Secret, ServerSettings, WorkerSettings
from runqy_agent.demo import scenario
from runqy_agent.demo.client import TaskClient
from runqy_agent.demo.redis_server import start_redis
from runqy_agent.demo.registration_server import RegistrationServer
from runqy_agent.demo.repositories import GitRepository
from runqy_agent.errors import RunqyAgentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runqy_agent.demo.redis_server import FakeRedisServer, RedisServer

_CONCURRENCY = 4
_KEEP_RELEASES = 10
"""Each running demo needs its own release in the directory that they share."""


@dataclass(frozen=True)
class Stage:
    """What is set up.

    Attributes:
        tasks: a client for Redis.
        deployments: kept from run to run, so that environments need not be built again.
        log: the worker's log; the next run replaces it.
        kept: where what is slow to make is kept from run to run.
        scratch: removed at the end.
    """

    redis: RedisServer | FakeRedisServer
    server: RegistrationServer
    repository: GitRepository
    tasks: TaskClient
    deployments: Path
    log: Path
    kept: Path
    scratch: Path

    def config(self) -> Config:
        """The worker's configuration. Environment and files do not matter here: the demo is the same everywhere."""
        return Config(
            server=ServerSettings(url=self.server.url, api_key=Secret(self.server.api_key)),
            worker=WorkerSettings(queues=list(self.server.queues), concurrency=_CONCURRENCY),
            deployment=DeploymentSettings(
                dir=str(self.deployments),
                python=sys.executable,  # it is known to be able to make virtual environments
                use_system_site_packages=False,
                keep_releases=_KEEP_RELEASES,
            ),
            log=LogSettings(format="text"),
        )


@contextlib.contextmanager
def set_up() -> Iterator[Stage]:
    """Start everything; at the end stop it and remove it, but for the log and the environments.

    Raises:
        RunqyAgentError: something that the demo needs is not installed.
    """
    if shutil.which("git") is None:
        raise RunqyAgentError("the demo deploys from a Git repository, and git is not installed: apt-get install git")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runqy-demo-")))
        kept = _cache_directory() or scratch
        redis = _start_redis()
        stack.callback(redis.close)
        client = stack.enter_context(redis.client())
        repository = GitRepository(scratch / "repository", sample_files())
        server = RegistrationServer(redis.address, secrets.token_urlsafe(12), scenario.queues(repository.url))
        stack.callback(server.close)
        tasks = TaskClient(client)
        yield Stage(redis, server, repository, tasks, kept / "deployment", kept / "worker.log", kept, scratch)


def sample_files() -> dict[str, str]:
    """The files of the sample repository, path to text."""
    root = Path(__file__).with_name("repository")
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def _start_redis() -> RedisServer | FakeRedisServer:
    try:
        return start_redis()
    except ModuleNotFoundError as missing:
        raise RunqyAgentError(
            "the demo needs a Redis: install redis-server, or a stand-in with `pip install 'runqy-agent[demo]'`"
        ) from missing


def _cache_directory() -> Path | None:
    """Where environments survive the demo, if there is such a place for this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
        directory = home / "runqy-agent" / "demo"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return directory if os.access(directory, os.W_OK) else None
