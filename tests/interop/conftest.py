"""Fixtures of the tests with asynq itself. ``make interop`` builds what they need."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interop.peer import Peer
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from runqy_agent.demo.redis_server import RedisServer


@pytest.fixture(scope="session")
def program() -> Path:
    built = os.environ.get("ASYNQPEER")
    if not built:
        pytest.skip("no asynqpeer: run these tests with make interop")
    return Path(built).absolute()


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One deployment directory for all workers of the session: its environments are built once."""
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture
def stage(tmp_path: Path, deployments: Path, redis_client: redis.Redis, redis_server: RedisServer) -> Iterator[Stage]:
    stage = Stage(tmp_path, deployments, redis_client, redis_server.address)
    yield stage
    stage.close()
    for log in sorted(tmp_path.glob("*.log")):  # pytest shows this when the test has failed
        sys.stdout.write(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')}")


@pytest.fixture
def peer(program: Path, stage: Stage, redis_server: RedisServer, tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(program, redis_server.address, tmp_path)
    yield peer
    peer.close()
