"""What the controller builds for hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from host_programs import FILES, load

if TYPE_CHECKING:
    from pathlib import Path

LOCK = FILES / "requirements.lock"
wheelhouse = load("build_wheelhouse")


def names(target: str) -> set[str]:
    lines = wheelhouse.requirements_for(LOCK, wheelhouse.Target(target)).splitlines()
    assert all("--hash=sha256:" in line for line in lines)
    assert all(";" not in line.partition("--hash")[0] for line in lines)
    return {line.partition("==")[0] for line in lines}


def test_old_pythons_get_what_they_lack_and_new_ones_do_not() -> None:
    old, middle, new = (names(f"cpython-{minor}-x86_64-glibc-2.31") for minor in ("310", "311", "313"))
    assert {"tomli", "exceptiongroup", "async-timeout"} <= old
    assert "async-timeout" in middle  # for 3.11.0 to 3.11.2: which of them the host has, its pip knows
    assert "tomli" not in middle
    assert not {"tomli", "exceptiongroup", "async-timeout"} & new
    assert {"redis", "hiredis", "msgspec", "uvloop", "pip"} <= old & new


def test_wheels_are_chosen_for_the_host_and_not_for_the_controller() -> None:
    options = wheelhouse.Target("cpython-310-aarch64-glibc-2.28").pip_options()
    assert "--python-version=3.10" in options
    assert "--platform=manylinux_2_28_aarch64" in options
    assert "--platform=manylinux2014_aarch64" in options
    assert not any("2_29" in option or "x86_64" in option for option in options)
    assert "--platform=musllinux_1_2_x86_64" in wheelhouse.Target("cpython-312-x86_64-musl-1.2").pip_options()


@pytest.mark.parametrize("target", ["pypy-39-x86_64-glibc-2.31", "cpython-312-arm64--", "nonsense"])
def test_a_host_for_which_there_can_be_no_wheels_is_named(target: str) -> None:
    with pytest.raises(wheelhouse.BuildError, match=target):
        wheelhouse.Target(target)


def test_another_line_of_code_or_another_dependency_is_another_version(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "agent/runqy_agent").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "agent/runqy_agent/_version.py"):
        (source / name).write_text('__version__ = "1.2.3"\n')
    lock = tmp_path / "lock"
    lock.write_text("a==1\n")
    first = wheelhouse.source_digest(source, lock)
    assert wheelhouse.source_version(source) == "1.2.3"
    (source / "agent/runqy_agent/__pycache__").mkdir()
    (source / "agent/runqy_agent/__pycache__/x.pyc").write_text("x")
    assert wheelhouse.source_digest(source, lock) == first
    lock.write_text("a==2\n")
    second = wheelhouse.source_digest(source, lock)
    (source / "agent/runqy_agent/new.py").write_text("")
    assert len({first, second, wheelhouse.source_digest(source, lock)}) == 3


def test_a_directory_without_the_agents_wheel_or_with_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wheelhouse.BuildError, match="found: none"):
        wheelhouse.from_files([], tmp_path, ["t"])
    wheels = [tmp_path / f"runqy_agent-{version}-py3-none-any.whl" for version in ("1", "2")]
    with pytest.raises(wheelhouse.BuildError, match="exactly one"):
        wheelhouse.from_files(wheels, tmp_path, ["t"])
