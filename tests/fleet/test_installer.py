"""The role's installer takes wheels that arrived whole, and nothing else."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from host_programs import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

installer = load("install_version")
WHEEL = "runqy_agent-1-py3-none-any.whl"


def archive(path: Path, *members: tarfile.TarInfo) -> str:
    """Write one with these members. Returns its checksum."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            data = b"content" if member.isfile() else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.linkname = link
    return made


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "into"
    path.mkdir()
    return path


def test_wheels_that_arrived_whole_are_unpacked(tmp_path: Path, into: Path) -> None:
    path = tmp_path / "wheels.tar"
    installer.unpack(path, archive(path, member(WHEEL), member("other-2-py3-none-any.whl")), into)
    assert sorted(each.name for each in into.iterdir()) == ["other-2-py3-none-any.whl", WHEEL]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"X" + data[1:]])
def test_an_archive_that_was_damaged_on_its_way_is_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path, into: Path
) -> None:
    path = tmp_path / "wheels.tar"
    checksum = archive(path, member(WHEEL))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SystemExit, match=f"was damaged on its way: checksum .* instead of {checksum}"):
        installer.unpack(path, checksum, into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    "foreign",
    [
        member("setup.py"),
        member("package-1.tar.gz"),
        member("../evil.whl"),
        member("/etc/evil.whl"),
        member("directory/evil.whl"),
        member("evil.whl", tarfile.SYMTYPE, "/etc/passwd"),
        member("evil.whl", tarfile.LNKTYPE, "/etc/passwd"),
        member("evil.whl", tarfile.DIRTYPE),
        member("evil.whl", tarfile.FIFOTYPE),
        member("evil.WHL.txt"),
    ],
    ids=lambda foreign: f"{foreign.name} {foreign.type.decode()}",
)
def test_what_is_no_wheel_is_refused_and_nothing_is_unpacked(
    foreign: tarfile.TarInfo, tmp_path: Path, into: Path
) -> None:
    path = tmp_path / "wheels.tar"
    checksum = archive(path, member(WHEEL), foreign)
    with pytest.raises(SystemExit, match="which is not a wheel"):
        installer.unpack(path, checksum, into)
    assert list(into.iterdir()) == []


def test_a_version_whose_wheels_are_refused_does_not_count_as_installed(tmp_path: Path) -> None:
    path, home = tmp_path / "wheels.tar", tmp_path / "version"
    arguments: dict[str, Any] = {"use_index": False, "environment": {}}
    checksum = archive(path, member("setup.py"))
    for sha256 in (checksum, "0" * 64):
        program = (
            f"from install_version import main; main({str(home)!r}, 'x', {str(path)!r}, {sha256!r}, **{arguments!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=installer.__file__.rpartition("/")[0],
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert not (home / installer.COMPLETE).exists()
    assert path.exists()
