"""What a crash left is cleaned up; a full disk and a read-only file system are told of and leave what works alone."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, version_in
from runqy_agent.deployment import Source
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def crash(bench: Bench) -> list[Path]:
    """Leave what a killed deployment leaves; returns the paths."""
    (cache,) = (bench.home / "repositories").iterdir()
    queue = bench.home / "queues" / QUEUE
    directories = [
        bench.home / "environments" / ".tmp-1",
        bench.home / "environments" / ("0" * 20),
        bench.home / "tools" / "uv-000000000000",
        bench.home / "repositories" / ".tmp-2",
        queue / "releases" / ".tmp-3",
        queue / "releases" / "000000000000-000000000000",
        bench.home / "queues" / "gone" / "releases" / "000000000000-000000000000",
    ]
    files = [queue / ".tmp-4", cache / "shallow.lock", cache / "refs" / "runqy" / "x.lock"]
    for directory in directories:
        (directory / "code").mkdir(parents=True)
    for file in files:
        file.touch()
    return [*directories, *files]


def test_what_a_crash_left_is_removed_though_nothing_is_new(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    left = crash(bench)
    second = asyncio.run(bench.deployer().prepare(QUEUE, Source(bench.repo.url, "main")))
    assert second.root == first.root
    assert [path for path in left if path.exists()] == []
    assert version_in(second) == "1.0"


def test_what_is_under_way_elsewhere_is_not_cleaned_up_and_not_waited_for(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    first = bench.deploy()
    left = crash(bench)
    with (bench.home / ".lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert bench.deploy().root == first.root
        assert all(path.exists() for path in left)


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """The deployment directory on a file system of 4 MiB."""
    bench.home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(bench.home)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a full and a read-only disk need the right to mount: {mounted.stderr.strip()}")
    yield bench.home
    subprocess.run(["umount", "--lazy", str(bench.home)], check=True)


@pytest.mark.parametrize("what", ["git", "pip"])
def test_a_full_disk_is_told_of_and_what_is_deployed_goes_on(bench: Bench, small_disk: Path, what: str) -> None:
    bench.repo.commit(main_dot_py="1")
    first = bench.deploy()
    if what == "git":
        (bench.repo.path / "big.bin").write_bytes(os.urandom(8 * 1024 * 1024))
        bench.repo.commit()
        release = bench.deploy()
        assert (release.root, release.stale) == (first.root, True)
        assert "make room" in release.stale_reason
    else:
        commit = bench.repo.commit(requirements_dot_txt=REQUIREMENTS)  # pip alone is larger than the disk
        with pytest.raises(DeploymentError, match="make room") as failed:
            bench.deploy()
        assert failed.value.commit == commit
        standing = bench.deployer().standing(QUEUE, Source(bench.repo.url, "main"))
        assert standing is not None
        assert standing.root == first.root
    free = os.statvfs(small_disk).f_bavail
    (small_disk / "filler").write_bytes(b"x" * free * os.statvfs(small_disk).f_frsize)
    assert os.statvfs(small_disk).f_bavail == 0
    bench.repo.git("reset", "--hard", first.commit)
    assert bench.deploy() == first


def test_a_read_only_disk_is_told_of_and_what_is_deployed_can_be_started(bench: Bench, small_disk: Path) -> None:
    bench.repo.commit(main_dot_py="1")
    first = bench.deploy()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = bench.deploy()
    assert (again.root, again.stale) == (first.root, False)
    commit = bench.repo.commit(main_dot_py="2")
    with pytest.raises(DeploymentError, match="read-only: set") as failed:
        bench.deploy()
    assert failed.value.commit == commit
    deployer = bench.deployer()
    deployer.refuse(again, "how", "it broke")  # cannot be remembered, which must not be worse than that
    assert deployer.refusal(again, "how") == ""
