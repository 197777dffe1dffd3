"""A package index, an interpreter with pip, and a shared cache: made once, used by all repositories."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from package_index import package_index
from repository_kit import Layout, make_wheels
from runqy_agent.config.settings import DeploymentSettings
from runqy_agent.deployment.environment import plan_environment
from runqy_agent.deployment.files import locked
from runqy_agent.deployment.interpreter import find_python
from runqy_agent.deployment.tools import Tools
from runqy_agent.deployment.wanted import Dependencies
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wheels = tmp_path_factory.mktemp("index") / "wheels"
    make_wheels(wheels)
    with package_index(wheels) as server:
        yield server.url


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of the environments."""
    return Path(sys.executable)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """uv and Poetry as deployments obtain them, from a real index: once for all processes of the session."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "tools"

    async def obtain() -> None:
        plan = plan_environment(
            DeploymentSettings(), await find_python(sys.executable), Dependencies("none", directory), ""
        )
        directory.mkdir(exist_ok=True)
        async with locked(directory / ".lock"):
            for name in ("uv", "poetry", "poetry-core"):
                await Tools(directory).obtain(name, plan)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # uv is faster
            asyncio.run(obtain())
    except EnvironmentBuildError as unreachable:
        pytest.skip(f"no package index with Poetry and uv can be reached: {unreachable}")
    return directory


@pytest.fixture(autouse=True)
def surroundings(
    request: pytest.FixtureRequest,
    index: str,
    case: tuple[Layout, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout, installer = case
    if layout.oracle == "poetry" or (layout.oracle == "uv" and installer != "uv"):
        tools: Path = request.getfixturevalue("tools")
        own = tmp_path / "deployment" / "tools"  # of each deployment: it removes what it takes for its own leftovers
        own.mkdir(parents=True)
        for tool in tools.glob("*-" + "[0-9a-f]" * 12):
            (own / tool.name).symlink_to(tool)
        (poetry,) = tools.glob("poetry-" + "[0-9a-f]" * 12)
        monkeypatch.setenv("TEST_POETRY", str(poetry / "bin" / "poetry"))
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "POETRY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", index)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    here = str(Path(sys.executable).parent)  # where uv is
    others = [name for name in os.environ["PATH"].split(os.pathsep) if not (Path(name) / "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join([here, *others] if installer == "uv" else others))
