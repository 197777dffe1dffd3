"""Releases: kept, pruned, rolled back, stale, shared and interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, deploy, deploying, version_in
from runqy_agent.deployment import Release, Source
from runqy_agent.errors import DeploymentError, GitError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_old_releases_and_environments_are_removed_but_not_the_current_and_previous(bench: Bench) -> None:
    releases = []
    for number in range(5):
        bench.repo.commit(main_dot_py=str(number), requirements_dot_txt=f"# {number}\n")
        release = bench.deploy(keep=2)
        bench.deployer().let_go(release)
        releases.append(release)
    assert bench.names(f"queues/{QUEUE}/releases") == sorted(release.root.parent.name for release in releases[-2:])
    assert bench.names("environments") == sorted(release.environment.name for release in releases[-2:])
    back = bench.deploy(releases[-2].commit, keep=1)
    assert back.root == releases[-2].root
    assert bench.names(f"queues/{QUEUE}/releases") == sorted(release.root.parent.name for release in releases[-2:])
    other = bench.deploy(releases[0].commit, queue="other", keep=1)
    assert bench.names("environments") == sorted(release.environment.name for release in (*releases[-2:], other))


def test_a_release_that_is_used_is_removed_only_after_it_was_let_go(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="0", requirements_dot_txt=REQUIREMENTS)
    deployer, source = bench.deployer(keep=1), Source(bench.repo.url, "main")
    used = deploy(deployer, source)
    unused = deploy(deployer, source, "another")
    assert used.environment == unused.environment
    deployer.let_go(unused)
    for number in range(3):
        bench.repo.commit(main_dot_py=str(number + 1), requirements_dot_txt="# nothing\n")
        for queue in (QUEUE, "another"):
            bench.deploy(queue=queue, keep=1)  # as another worker of this host does it
    assert version_in(used) == "1.0"
    assert used.code_dir.is_dir()
    assert not unused.code_dir.exists()
    deployer.let_go(used)
    bench.repo.commit(main_dot_py="4")
    bench.deploy(keep=1)
    assert not used.code_dir.exists()
    assert not used.environment.exists()


def test_a_release_that_another_process_uses_is_not_removed(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="0")
    release = bench.deploy()
    bench.deployer().let_go(release)
    code = "from runqy_agent.deployment.holds import hold; import sys, pathlib; "
    code += "held = hold(pathlib.Path(sys.argv[1])); print(held is not None, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(release.root.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "True\n"
        for number in range(3):
            bench.repo.commit(main_dot_py=str(number + 1))
            bench.deploy(keep=1)
        assert release.code_dir.is_dir()
        worker.kill()  # the kernel lets go for it
    bench.repo.commit(main_dot_py="4")
    bench.deploy(keep=1)
    assert not release.code_dir.exists()


def test_code_that_never_becomes_ready_does_not_fill_the_disk(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="0")
    first = bench.deploy()
    deployer, source = bench.deployer(keep=2), Source(bench.repo.url, "main")
    for number in range(6):
        bench.repo.commit(main_dot_py=str(number + 1))
        deployer.let_go(asyncio.run(deployer.prepare(QUEUE, source)))
    assert len(bench.names(f"queues/{QUEUE}/releases")) <= 3
    assert first.code_dir.is_dir()


def test_what_can_serve_instead_is_the_current_release_then_the_previous_then_the_newest(bench: Bench) -> None:
    deployer, source = bench.deployer(), Source(bench.repo.url, "main")
    assert deployer.standing(QUEUE, source) is None
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    bench.repo.commit(main_dot_py="2", requirements_dot_txt="tinypkg==2.0\n")
    second = bench.deploy()
    bench.repo.commit(main_dot_py="3", requirements_dot_txt="# nothing\n")
    third = asyncio.run(deployer.prepare(QUEUE, source))

    def standing(branch: str = "main") -> Path | None:
        release = deployer.standing(QUEUE, Source(bench.repo.url, branch))
        return release.root if release else None

    assert standing("whatever") == second.root
    for broken, expected in ((second, first.root), (first, third.root), (third, None)):
        (broken.environment / ".complete").unlink()
        assert standing() == expected
    assert deployer.standing(QUEUE, Source("file:///srv/other.git", "main")) is None


def test_a_refused_release_is_no_substitute_for_another(bench: Bench) -> None:
    deployer = bench.deployer()
    bench.repo.commit(main_dot_py="1")
    refused = asyncio.run(deployer.prepare(QUEUE, Source(bench.repo.url, "main")))
    deployer.refuse(refused, "f", "it broke")
    assert deployer.standing(QUEUE, Source(bench.repo.url, "main")) is None


def test_a_refusal_is_remembered_for_its_release_and_fingerprint_until_it_is_activated(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    source = Source(bench.repo.url, "main")
    first = bench.deploy()
    bench.repo.commit(main_dot_py="2")
    second = asyncio.run(bench.deployer().prepare(QUEUE, source))
    bench.deployer().refuse(second, "before", "an older reason")
    bench.deployer().refuse(second, "how", "it ended with exit code 3")
    deployer = bench.deployer()
    assert deployer.refusal(second, "how") == "it ended with exit code 3"
    assert (deployer.refusal(second, "before"), deployer.refusal(first, "how")) == ("", "")
    file = bench.home / "queues" / QUEUE / "refused.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    asyncio.run(deployer.activate(first))
    assert deployer.refusal(second, "how"), "the activation of another release does not absolve it"
    asyncio.run(deployer.activate(second))
    assert deployer.refusal(second, "how") == ""
    file.write_text("[{", encoding="utf-8")
    assert deployer.refusal(second, "how") == ""
    deployer.refuse(second, "how", "again")
    assert deployer.refusal(second, "how") == "again"


def test_a_release_is_current_only_once_it_is_activated(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    first = bench.deploy()
    second_commit = bench.repo.commit(main_dot_py="2")
    deployer, source = bench.deployer(), Source(bench.repo.url, "main")
    second = asyncio.run(deployer.prepare(QUEUE, source))
    assert (second.commit, second.root.is_dir(), second.python.exists()) == (second_commit, True, True)
    current, previous = bench.home / "queues" / QUEUE / "current", bench.home / "queues" / QUEUE / "previous"
    assert current.resolve() == first.root.parent
    assert not previous.exists()
    asyncio.run(deployer.activate(second))
    assert current.resolve() == second.root.parent
    assert previous.resolve() == first.root.parent
    asyncio.run(deployer.activate(first))
    assert (current.resolve(), previous.resolve()) == (first.root.parent, second.root.parent)
    deployer.let_go(first)
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


def test_a_branch_that_was_deleted_leaves_its_last_release_in_service_and_says_so(bench: Bench) -> None:
    commit = bench.repo.commit(main_dot_py="1")
    bench.repo.git("branch", "work")
    bench.deploy("work")
    bench.repo.git("branch", "-D", "work")
    release = bench.deploy("work")
    assert (release.commit, release.stale) == (commit, True)
    assert "no branch or tag 'work'" in release.stale_reason
    with pytest.raises(GitError, match="no branch or tag 'work'"):
        bench.deploy("work", queue="another")


def test_a_commit_that_cannot_be_fetched_is_named_as_the_one_wanted(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    wanted = bench.repo.commit(main_dot_py="2" * 5000)
    (blob,) = (bench.repo.path / ".git" / "objects").glob(
        f"{(sha := bench.repo.git('rev-parse', 'HEAD:main.py'))[:2]}/{sha[2:]}"
    )
    blob.unlink()
    release = bench.deploy()
    assert (release.root, release.stale, release.wanted) == (first.root, True, wanted)
    with pytest.raises(GitError) as failed:
        bench.deploy(queue="another")
    assert failed.value.commit == wanted


def test_deployments_into_one_directory_take_turns(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    source = Source(bench.repo.url, "main")

    async def scenario() -> list[Release]:
        deployers = [bench.deployer() for _ in range(2)]
        return await asyncio.gather(
            *(deploying(deployer, source, queue) for deployer in deployers for queue in ("a", "a", "b:c"))
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
                await asyncio.wait_for(deploying(bench.deployer(), Source(bench.repo.url, "main")), 1)
        await deploying(bench.deployer(), Source(bench.repo.url, "main"))

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
            deploying(bench.deployer(python=str(python)), Source(bench.repo.url, "main"))
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
