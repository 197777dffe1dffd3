"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployment_kit import Bench
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from runqy_agent.demo.redis_server import RedisServer


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    without_uv = [name for name in os.environ["PATH"].split(os.pathsep) if not (Path(name) / "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without_uv))
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def uv() -> Path:
    """uv is no dependency of the project: the tests of it run where it is on PATH or beside this interpreter."""
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("uv is neither on PATH nor beside this interpreter")
    return Path(found)


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One deployment directory for all workers of the session: its environments are built once."""
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture
def stage(tmp_path: Path, deployments: Path, redis_client: redis.Redis, redis_server: RedisServer) -> Iterator[Stage]:
    stage = Stage(tmp_path, deployments, redis_client, redis_server.address)
    yield stage
    stage.close()
