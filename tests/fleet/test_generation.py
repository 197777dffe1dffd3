"""What a host remembers of its deployments, and what it clears away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from host_programs import load

if TYPE_CHECKING:
    from pathlib import Path

generation = load("generation")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host without systemd, with one deployment."""
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    for name in ("prefix/versions", "etc/credentials", "units"):
        (tmp_path / name).mkdir(parents=True)
    places = {"prefix": tmp_path / "prefix", "config_dir": tmp_path / "etc", "unit_dir": tmp_path / "units"}
    host = generation.Host("user", *map(str, places.values()), str(tmp_path / "command"))
    deploy(host, "1")
    return host


def deploy(host: Any, version: str, *, age: float = 0) -> None:
    directory = host.prefix / "versions" / version
    directory.mkdir(exist_ok=True)
    os.utime(directory, (1000 - age, 1000 - age))
    host.switch(version)
    (host.config_dir / "config.yml").write_text(f"of version {version}")
    (host.config_dir / "credentials/key").write_text(f"secret of {version}")
    (host.unit_dir / "runqy-agent.service").write_text(version)
    host.command.write_text(version)


def test_a_deployment_that_fails_is_undone_file_by_file(host: Any) -> None:
    generation.begin(host)
    deploy(host, "2")
    (host.config_dir / "new.yml").write_text("only of version 2")
    (host.unit_dir / "runqy-agent-new.service").write_text("only of version 2")
    assert generation.restore(host, exchange=False)["restored"] == "1"
    assert host.version() == "1"
    names = sorted(path.name for path in host.files())
    assert names == ["command", "config.yml", "key", "runqy-agent.service"]
    assert (host.config_dir / "credentials/key").read_text() == "secret of 1"


def test_what_an_interrupted_deployment_remembered_is_kept(host: Any) -> None:
    generation.begin(host)
    deploy(host, "2")
    generation.begin(host)
    deploy(host, "3")
    generation.restore(host, exchange=False)
    assert host.version() == "1"


def test_nothing_is_undone_that_has_not_begun(host: Any) -> None:
    with pytest.raises(SystemExit, match="nothing was touched"):
        generation.restore(host, exchange=False)
    assert host.version() == "1"
    assert (host.config_dir / "config.yml").exists()


def test_what_is_remembered_is_for_its_owner_alone(host: Any) -> None:
    generation.begin(host)
    assert host.previous.stat().st_mode & 0o777 == 0o600
    assert host.previous_facts.stat().st_mode & 0o777 == 0o600


def test_going_back_twice_leads_to_where_one_was(host: Any) -> None:
    generation.begin(host)
    deploy(host, "2")
    generation.finish(host, 3)
    for version in ("1", "2", "1"):
        generation.restore(host, exchange=True)
        assert host.version() == version
        assert (host.config_dir / "config.yml").read_text() == f"of version {version}"


def test_old_versions_go_and_those_in_use_or_remembered_stay(host: Any) -> None:
    for number, version in enumerate(("a", "b", "c", "d")):
        deploy(host, version, age=10 - number)
    os.utime(host.prefix / "versions/a", (1, 1))
    host.switch("a")  # the oldest one runs
    generation.begin(host)
    host.switch("d")
    generation.finish(host, 3)
    assert sorted(path.name for path in (host.prefix / "versions").iterdir()) == ["1", "a", "d"]
    generation.finish(host, 1)
    assert sorted(path.name for path in (host.prefix / "versions").iterdir()) == ["a", "d"]


# With a systemd


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"{directory}/calls"
case "$*" in
*is-active*new*) echo inactive ;;
*is-active*) echo active ;;
*is-enabled*) echo enabled ;;
esac
"""


@pytest.fixture
def calls(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """How systemctl was called."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL.format(directory=tmp_path))
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def test_units_that_a_bad_version_added_are_stopped_and_disabled_before_they_go(host: Any, calls: Path) -> None:
    generation.begin(host)
    deploy(host, "2")
    added = ("runqy-agent-new.service", "runqy-agent-new-heal.timer", "runqy-agent-new-heal.service")
    for name in added:
        (host.unit_dir / name).write_text("only of version 2")
    calls.write_text("")
    result = generation.restore(host, exchange=False)
    made = calls.read_text().splitlines()
    assert {f"--user disable --now {name}" for name in added} <= set(made)
    assert not any("disable --now runqy-agent.service" in call for call in made)
    reload = made.index("--user daemon-reload")
    assert all(made.index(f"--user disable --now {name}") < reload for name in added)
    assert "--user enable runqy-agent.service" in made[reload:]
    assert [path.name for path in host.unit_dir.iterdir()] == ["runqy-agent.service"]
    assert result == {"restored": "1", "were_active": ["runqy-agent.service"]}


def test_a_unit_that_was_not_enabled_before_is_not_enabled_after(host: Any, calls: Path, tmp_path: Path) -> None:
    program = tmp_path / "programs" / "systemctl"
    program.write_text(program.read_text().replace("echo enabled", "echo disabled"))
    generation.begin(host)
    deploy(host, "2")
    generation.restore(host, exchange=False)
    made = calls.read_text().splitlines()
    assert "--user disable runqy-agent.service" in made
    assert not any("enable runqy-agent.service" in call.replace("disable", "") for call in made)
