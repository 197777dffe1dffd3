"""Releases: kept, pruned, rolled back, stale, shared and interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, version_in
from runqy_agent.deployment import Release, Source
from runqy_agent.errors import DeploymentError, GitError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_old_releases_and_environments_are_removed_but_not_the_current_and_previous(bench: Bench) -> None:
    releases = []
    for number in range(5):
        bench.repo.commit(main_dot_py=str(number), requirements_dot_txt=f"# {number}\n")
        releases.append(bench.deploy(keep=2))
    assert bench.names(f"queues/{QUEUE}/releases") == sorted(release.root.parent.name for release in releases[-2:])
    assert bench.names("environments") == sorted(release.environment.name for release in releases[-2:])
    back = bench.deploy(releases[-2].commit, keep=1)
    assert back.root == releases[-2].root
    assert bench.names(f"queues/{QUEUE}/releases") == sorted(release.root.parent.name for release in releases[-2:])
    other = bench.deploy(releases[0].commit, queue="other", keep=1)
    assert bench.names("environments") == sorted(release.environment.name for release in (*releases[-2:], other))


def test_the_previous_release_can_be_made_current_again(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    first = bench.deploy()
    deployer = bench.deployer()
    assert deployer.previous(QUEUE) is None
    bench.repo.commit(main_dot_py="2")
    bench.deploy()
    previous = deployer.previous(QUEUE)
    assert previous == first
    asyncio.run(deployer.activate(previous))
    assert (bench.home / "queues" / QUEUE / "current").resolve() == first.root.parent
    shutil.rmtree(first.root.parent)
    with pytest.raises(DeploymentError, match="is gone"):
        asyncio.run(deployer.activate(first))


def test_without_the_repository_the_last_release_is_started_and_called_stale(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    moved = bench.repo.path.rename(bench.path / "gone")
    release = bench.deploy()
    assert release.root == first.root
    assert release.stale
    assert bench.repo.url in release.stale_reason
    assert "maybe stale" in caplog.text
    for branch, code_path in (("other", ""), ("main", "elsewhere")):
        with pytest.raises(GitError, match="asking"):
            bench.deploy(branch, code_path)
    with pytest.raises(GitError, match="no possible name"):
        bench.deploy("--upload-pack=id")
    assert not bench.deploy(first.commit).stale, "a whole commit that is deployed needs no repository"
    moved.rename(bench.repo.path)
    assert not bench.deploy().stale


def test_a_branch_that_was_deleted_is_an_error_and_not_stale(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    bench.repo.git("branch", "work")
    bench.deploy("work")
    bench.repo.git("branch", "-D", "work")
    with pytest.raises(GitError, match="no branch or tag 'work'"):
        bench.deploy("work")


def test_deployments_into_one_directory_take_turns(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    source = Source(bench.repo.url, "main")

    async def scenario() -> list[Release]:
        deployers = [bench.deployer() for _ in range(2)]
        return await asyncio.gather(
            *(deployer.deploy(queue, source) for deployer in deployers for queue in ("a", "a", "b:c"))
        )

    releases = asyncio.run(scenario())
    assert len({release.environment for release in releases}) == 1
    assert len({release.root for release in releases}) == 2
    assert bench.names("queues") == ["a", "b%3Ac"]


def test_waiting_for_the_lock_leaves_the_event_loop_free_and_can_be_cancelled(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    bench.home.mkdir()

    async def scenario() -> None:
        with (bench.home / ".lock").open("w", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(bench.deployer().deploy(QUEUE, Source(bench.repo.url, "main")), 1)
        await bench.deployer().deploy(QUEUE, Source(bench.repo.url, "main"))

    asyncio.run(scenario())


def test_a_cancelled_deployment_ends_its_commands_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.repo.commit(requirements_dot_txt=REQUIREMENTS)
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    python = tmp_path / "python"  # answers as the real one, and never ends once it is to create an environment
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *venv*) sleep 600 & echo $! $$ >"{fifo}"; wait ;; esac\n'
        f'"{sys.executable}" "$@" | sed "s#{sys.executable}#{python}#"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)

    async def scenario() -> list[int]:
        deployment = asyncio.ensure_future(
            bench.deployer(python=str(python)).deploy(QUEUE, Source(bench.repo.url, "main"))
        )
        pids = await asyncio.to_thread(fifo.read_text, "utf-8")
        deployment.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await deployment
        return [int(pid) for pid in pids.split()]

    for pid in asyncio.run(scenario()):
        assert not is_running(pid)
    assert version_in(bench.deploy()) == "1.0"


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended (nobody may have reaped it)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("spoil", [lambda path: path.write_text(""), lambda path: path.mkdir(0o500)])
def test_a_directory_that_cannot_be_used_is_an_error_that_says_what_to_do(
    bench: Bench, spoil: Callable[[Path], object]
) -> None:
    bench.repo.commit(main_dot_py="1")
    spoil(bench.home)
    if os.access(bench.home, os.W_OK) and bench.home.is_dir():
        pytest.skip("root may write everywhere")
    with pytest.raises(DeploymentError, match=str(bench.home)):
        bench.deploy()
