"""A package index, an interpreter with pip, and a shared cache: made once, used by all repositories."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from package_index import package_index
from repository_kit import make_wheels

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


@pytest.fixture(autouse=True)
def surroundings(index: str, installer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
