"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from deployment_kit import Bench


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
