"""Git servers that refuse what makes fetching fast: the plain way works as well, and is told of once."""

from __future__ import annotations

import functools
import logging
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from deployment_kit import Bench, Repo, deploy
from runqy_agent.deployment import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def dumb_server(tmp_path: Path) -> Iterator[str]:
    """Serves files, and knows nothing of Git."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_behind_a_plain_web_server_is_fetched_and_the_detour_told_once(
    bench: Bench, dumb_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    told = []
    for code in ("1", "2", "3"):
        commit = bench.repo.commit(jobs__main_dot_py=code, README_dot_md=code)
        bench.repo.git("update-server-info")
        caplog.clear()
        source = Source(f"{dumb_server}/repo/.git", "main" if code != "3" else commit, "jobs")
        assert deploy(bench.deployer(), source).commit == commit
        told.append("all its history" in caplog.text)
    assert told == [True, False, False]


def test_a_repository_with_long_object_names_is_fetched(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.mkdir()
    made = subprocess.run(["git", "init", "--quiet", "--object-format=sha256", str(path)], check=False)
    if made.returncode:
        pytest.skip("this Git knows no sha256")
    repo = Repo.__new__(Repo)
    repo.path = path
    repo.git("checkout", "--quiet", "-b", "main")
    commit = repo.commit(jobs__main_dot_py="1")
    assert len(commit) == 64
    assert deploy(bench.deployer(), Source(repo.url, "main", "jobs")).commit == commit
    commit = repo.commit(jobs__main_dot_py="2")
    assert deploy(bench.deployer(), Source(repo.url, commit, "jobs"), "another").commit == commit
