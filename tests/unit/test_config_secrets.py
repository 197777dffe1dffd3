from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import pytest

from config_kit import ENOUGH, Files, problems
from runqy_agent.config import Secret, load_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(("raw", "key"), [(b"k3y\n", "k3y"), (b"k3y", "k3y"), (b"k3y\r\n", "k3y")])
def test_a_secret_is_read_from_its_file(files: Files, raw: bytes, key: str) -> None:
    path = files.write(raw, "key")
    config = files.load(f"server: {{api_key_file: {path}}}", {"RUNQY_SERVER_URL": "https://h", "RUNQY_QUEUES": "q"})
    assert config.server.api_key == Secret(key)


@pytest.mark.parametrize("path", ["server.api_key", "git.token", "redis.password", "redis.sentinel.password"])
def test_every_secret_can_come_from_a_file(files: Files, path: str) -> None:
    overrides = {f"{path}_file": str(files.write("from-file\n", "secret"))}
    if "sentinel" in path:
        overrides |= {"redis.sentinel.master_name": "m", "redis.sentinel.nodes": "a"}
    assert attrgetter(path)(load_config(environ=ENOUGH, overrides=overrides)) == Secret("from-file")


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 70_000, "larger than"), (None, "No such")],
)
def test_a_secret_file_without_a_secret_is_refused(files: Files, raw: bytes | None, said: str) -> None:
    path = files.directory / "key"
    if raw is not None:
        path.write_bytes(raw)
    (line,) = problems(ENOUGH | {"RUNQY_GIT_TOKEN_FILE": str(path)})
    assert line.startswith("RUNQY_GIT_TOKEN_FILE: git.token_file: ")
    assert str(path) in line
    assert said in line


def test_of_a_secret_and_its_file_the_stronger_source_wins(files: Files) -> None:
    path = files.write("from-file\n", "key")
    environ = {name: value for name, value in ENOUGH.items() if name != "RUNQY_API_KEY"}
    both = files.load("server: {api_key: plain}", environ | {"RUNQY_API_KEY_FILE": str(path)})
    assert both.server.api_key == Secret("from-file")
    other = files.load(f"server: {{api_key_file: {path}}}", environ | {"RUNQY_API_KEY": "plain"})
    assert other.server.api_key == Secret("plain")
    assert other.server.api_key_file == ""


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("server: {api_key: a, api_key_file: b}", ("server.api_key_file", "server.api_key")),
        ("git: {token: a, token_file: b}", ("git.token_file", "git.token")),
        ("redis: {password: a, password_file: b}", ("redis.password_file", "redis.password")),
        (
            "redis: {sentinel: {password: a, password_file: b}}",
            ("redis.sentinel.password_file", "redis.sentinel.password"),
        ),
        ("worker: {queue: a, queues: [b]}", ("worker.queues", "worker.queue")),
    ],
)
def test_two_ways_to_say_it_in_one_source_are_an_error(files: Files, text: str, pair: tuple[str, str]) -> None:
    found = files.problems(text)
    assert f"config.yml:1: {pair[0]}: {pair[1]} is given too; keep one of them" in found


def test_the_variable_replaces_the_queue_of_the_file(files: Files) -> None:
    config = files.load("worker: {queue: old}", ENOUGH | {"RUNQY_QUEUES": "a,b"})
    assert config.queues() == ["a", "b"]
    assert files.load("worker: {queues: [old]}", ENOUGH, overrides={"worker.queue": "new"}).queues() == ["new"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("server: {api_key: [hush-hush]}", "server.api_key"),
        ("server: {api_key: {hush-hush: 1}}", "server.api_key"),
        ("server: {api_key: 4815162342}", "server.api_key"),
        ("server: {api_key: hush hush}", "server.api_key"),
        ("server: {api_key: 'hush-h\u00fcsh'}", "server.api_key"),
        ('server: {api_key: "hush-${hush"}', "server.api_key"),
        ('git: {token: "hush\\nhush"}', "git.token"),
        ("redis: {password: [hush-hush]}", "redis.password"),
        ("redis: {sentinel: {password: [hush-hush]}}", "redis.sentinel.password"),
        ("redis: {sentinel: {pasword: hush-hush}}", "redis.sentinel.pasword"),
        ("redis: {sentinel: {nodes: ['redis://:hush-hush@h']}}", "redis.sentinel.nodes"),
        ("server: {url: 'https://me:hush-hush@h'}", "server.url"),
        ("redis: {address: 'redis://:hush-hush@h'}", "redis.address"),
        ("server: {apikey: hush-hush}", "server.apikey"),
    ],
)
def test_no_message_shows_a_secret(files: Files, text: str, path: str) -> None:
    found = "\n".join(files.problems(text, {"RUNQY_QUEUES": "q"}))
    assert path in found
    assert "hush" not in found
    assert "4815" not in found


def test_a_secret_never_shows_in_the_settings() -> None:
    assert "k3y" not in repr(load_config(environ=ENOUGH | {"RUNQY_API_KEY": "k3y"}))
