"""Where a worker's endpoint is if nobody says so: the worker and the commands come to the same answer."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runqy_agent.config import load_config, places
from runqy_agent.config.local import LocalSettings, listen_address, token_directories
from runqy_agent.config.places import FALLBACK, default_address, runtime_directory, socket_name
from runqy_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENOUGH = {"RUNQY_SERVER_URL": "https://h", "RUNQY_API_KEY": "key", "RUNQY_QUEUES": "b,a"}


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name, unlike pytest's own: the path of a socket is limited."""
    with tempfile.TemporaryDirectory(prefix="rq-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of the test's own."""
    system = tmp_path / "system" / "runqy-agent"
    monkeypatch.setattr(places, "SYSTEM", system)
    monkeypatch.setattr(places, "USERS", tmp_path / "users")
    return system


@pytest.fixture
def session() -> Iterator[Path]:
    """A directory with a short name: that of a socket is limited."""
    with tempfile.TemporaryDirectory(prefix="rq-") as path:
        yield Path(path)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for each in made:
        each.close()


def listen(path: Path, sockets: list[socket.socket]) -> None:
    """A worker that answers there."""
    leave(path)
    path.unlink()
    sockets.append(socket.socket(socket.AF_UNIX))
    sockets[-1].bind(str(path))
    sockets[-1].listen()


def leave(path: Path) -> None:
    """What a dead worker has left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_the_runtime_directory_is_systemds_then_the_users_then_the_systems(
    session: Path, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda root=root: root)
        environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": str(session)}
        assert str(runtime_directory(environ)) == "/run/a"
    monkeypatch.undo()
    assert runtime_directory({"XDG_RUNTIME_DIR": str(session)}) == session / "runqy-agent"


@pytest.mark.parametrize("given", ["", "relative", "/nowhere/at/all"])
def test_a_runtime_directory_that_is_none_of_this_users_is_not_used(
    given: str, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(places, "SYSTEM", system)
    assert runtime_directory({"XDG_RUNTIME_DIR": given}) is None


def test_the_runtime_directory_of_somebody_else_is_not_used(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert runtime_directory({"XDG_RUNTIME_DIR": str(session)}) is None


def test_root_makes_the_systems_directory_and_others_use_it_if_they_may_write_there(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_directory({}) is None
    system.parent.mkdir()
    assert runtime_directory({}) == system
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runtime_directory({}) is None
    system.mkdir()
    assert runtime_directory({}) == system
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert runtime_directory({}) is None


def test_a_worker_with_other_settings_has_another_socket(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yml", tmp_path / "two" / "one.yml"
    names = {socket_name(one, []), socket_name(two, []), socket_name(None, ["a"]), socket_name("", ["b", "c"])}
    assert len(names) == 4
    assert socket_name(one, ["a"]) == socket_name(tmp_path / "two" / ".." / "one.yml", ["b"])
    (tmp_path / "link.yml").symlink_to(one)
    assert socket_name(tmp_path / "link.yml", []).split("-")[1] == socket_name(one, []).split("-")[1]
    assert socket_name(None, ["a.high", "b"]) == "a.high+b.sock"
    assert socket_name(None, ["../../etc/x y\u0301\n"]) == "-..-etc-x-y--.sock"
    assert socket_name(None, []) == "worker.sock"
    assert len(socket_name(None, ["x" * 500])) < 60


def test_without_a_directory_or_with_one_too_deep_for_a_socket_it_is_a_port(session: Path) -> None:
    assert default_address({}, "a.sock") == FALLBACK
    assert default_address({"RUNTIME_DIRECTORY": "/" + "x" * 98}, "abcd.sock") == FALLBACK
    assert default_address({"RUNTIME_DIRECTORY": "/" + "x" * 96}, "abcd.sock") != FALLBACK


def test_the_setting_decides_if_there_is_one(session: Path) -> None:
    environ = ENOUGH | {"XDG_RUNTIME_DIR": str(session)}
    config = load_config(environ=environ)
    assert listen_address(config, environ) == f"{session}/runqy-agent/b+a.sock"
    for given in ("", "127.0.0.1:1", "/run/x.sock"):
        config.status.listen = given
        assert listen_address(config, environ) == given


def test_commands_find_the_worker_of_their_settings(
    session: Path, tmp_path: Path, sockets: list[socket.socket]
) -> None:
    environ = ENOUGH | {"XDG_RUNTIME_DIR": str(session)}
    path = tmp_path / "config.yml"
    path.write_text("worker: {nonsense: 1}\n")
    by_queues = listen_address(load_config(environ=environ), environ)
    by_file = str(session / "runqy-agent" / socket_name(path, []))
    assert LocalSettings(None, environ).address() == FALLBACK
    listen(session / "runqy-agent" / by_queues.rpartition("/")[2], sockets)
    assert LocalSettings(None, environ).address() == by_queues
    assert LocalSettings(None, {"XDG_RUNTIME_DIR": str(session)}, {"worker.queues": "b,a,b"}).address() == by_queues
    assert LocalSettings(None, {"XDG_RUNTIME_DIR": str(session)}, {"worker.queue": "b"}).address() == FALLBACK
    assert LocalSettings(path, environ).address() == FALLBACK, "the worker of another configuration is not this one"
    listen(session / "runqy-agent" / by_file.rpartition("/")[2], sockets)
    assert LocalSettings(path, environ).address() == by_file


def test_commands_without_settings_find_the_only_worker_and_do_not_choose_among_several(
    session: Path, system: Path, sockets: list[socket.socket]
) -> None:
    environ = {"XDG_RUNTIME_DIR": str(session)}
    dead, one, two = session / "runqy-agent" / "dead.sock", system / "one.sock", system / "two" / "status.sock"
    leave(dead)
    assert LocalSettings(None, environ).address() == str(dead)
    listen(one, sockets)
    assert LocalSettings(None, environ).address() == str(one)
    listen(two, sockets)
    (system / "three.sock").write_text("no socket")
    with pytest.raises(ConfigError, match="several workers are on this host; say which") as several:
        LocalSettings(None, environ).address()
    assert str(one) in str(several.value)
    assert str(two) in str(several.value)
    assert "dead" not in str(several.value)


def test_of_two_sockets_with_the_right_name_the_living_one_counts(
    session: Path, system: Path, sockets: list[socket.socket]
) -> None:
    environ = ENOUGH | {"XDG_RUNTIME_DIR": str(session)}
    leave(session / "runqy-agent" / "b+a.sock")
    listen(system / "b+a.sock", sockets)
    assert LocalSettings(None, environ).address() == str(system / "b+a.sock")


def test_root_finds_the_workers_of_users_and_users_only_their_own(
    tmp_path: Path, sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "users" / "4711" / "runqy-agent" / "a.sock"
    listen(path, sockets)
    for user, found in ((0, str(path)), (4711, str(path)), (4712, FALLBACK)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert LocalSettings(None, {}).address() == found


def test_the_commands_look_for_the_token_where_the_worker_keeps_it(session: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(f"deployment: {{dir: {tmp_path}/code}}\n")
    for environ in (ENOUGH, ENOUGH | {"XDG_RUNTIME_DIR": str(session)}):
        kept = token_directories(load_config(path, environ=environ), environ)
        assert set(kept) <= set(LocalSettings(path, environ).token_directories())
        assert str(kept[-1]) == f"{tmp_path}/code"
    assert kept[0] == session / "runqy-agent"
