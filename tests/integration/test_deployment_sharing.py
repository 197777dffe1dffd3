"""Queues with the same repository share what is fetched, counted by the traces of a real git."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from deployment_kit import Bench, deploying
from runqy_agent.deployment import Source
from runqy_agent.deployment.in_flight import InFlight

if TYPE_CHECKING:
    from pathlib import Path


class Trace:
    """What git did, its own children included: a lazy fetch of blobs is a fetch that git starts itself."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._notes = path / "git.trace"
        (path / "bin").mkdir(parents=True)
        wrapper = path / "bin" / "git"
        wrapper.write_text(
            f'#!/bin/sh\nGIT_TRACE="{self._notes}" exec "{shutil.which("git")}" "$@"\n', encoding="utf-8"
        )
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")

    def take(self) -> tuple[int, int, int]:
        """How often, since the last time, the refs were asked for, a commit was fetched, and blobs were."""
        lines = [
            line for line in self._notes.read_text(encoding="utf-8").splitlines() if "trace: built-in: git " in line
        ]
        self._notes.unlink()
        fetches = [line for line in lines if "git fetch" in line]
        commits = [line for line in fetches if "--depth=1" in line]
        return sum("git ls-remote" in line for line in lines), len(commits), len(fetches) - len(commits)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Trace:
    return Trace(bench.path / "trace", monkeypatch)


def test_two_queues_with_the_same_repository_share_one_fetch(bench: Bench, trace: Trace) -> None:
    bench.repo.put("other/main.py", "2")
    commit = bench.repo.commit(jobs__main_dot_py="1")

    async def together(*queues: str) -> None:
        deployer, source = bench.deployer(), Source(bench.repo.url, "main", "jobs")
        releases = await asyncio.gather(*(deploying(deployer, source, queue) for queue in queues))
        assert {release.commit for release in releases} == {commit}
        assert all((release.code_dir / "main.py").read_text(encoding="utf-8") == "1" for release in releases)

    asyncio.run(together("a", "b"))
    assert trace.take() == (1, 1, 1)
    asyncio.run(together("c"))
    assert trace.take() == (1, 0, 0), "the commit is in the cache"
    release = bench.deploy(code_path="other")
    assert (release.code_dir / "main.py").read_text(encoding="utf-8") == "2"
    assert trace.take() == (1, 0, 1), "of another path only the files were missing"
    commit = bench.repo.commit(jobs__main_dot_py="1", more_dot_txt="")
    asyncio.run(together("a", "b"))
    assert trace.take()[:2] == (1, 1)


def test_a_tag_with_a_message_and_a_whole_commit_are_not_fetched_again_either(bench: Bench, trace: Trace) -> None:
    commit = bench.repo.commit(main_dot_py="1")
    bench.repo.git("-c", "user.name=x", "-c", "user.email=x@example.com", "tag", "-a", "-m", "one", "v1")
    bench.deploy("v1", queue="a")
    assert trace.take() == (1, 1, 1)
    bench.deploy("v1", queue="b")
    assert trace.take() == (1, 0, 0)
    bench.deploy(commit, queue="c")
    assert trace.take() == (0, 0, 0)


def test_who_waits_gets_the_answer_although_who_asked_first_was_cancelled() -> None:
    started: list[str] = []
    ended: list[str] = []

    async def scenario() -> None:
        asking: InFlight[str] = InFlight()
        answered = asyncio.Event()

        async def answer() -> str:
            started.append("")
            try:
                await answered.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return "yes"

        first, second = (asyncio.ensure_future(asking.ask("key", answer)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        answered.set()
        assert await second == "yes"
        assert len(started) == 1
        answered.clear()
        third = asyncio.ensure_future(asking.ask("key", answer))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait({third})
        assert (len(started), ended) == (2, ["cancelled"]), "with the last one, the work is cancelled too"

    asyncio.run(scenario())
