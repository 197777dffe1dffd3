from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from config_kit import ENOUGH, Files, problems, without
from runqy_agent.config import load_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("runqy.example.com", 'found "runqy.example.com"'),
        ("ftp://h", 'found "ftp://h"'),
        ("http://", 'found "http:"'),
        ("https://h/?a=b", "found a query or fragment"),
        ("https://h/#a", "found a query or fragment"),
        ("https://h:99999", "found a malformed host or port"),
        ("https://[::1", "found a malformed host or port"),
        ("https://h h", "found a space or control character"),
        ("https://user:pw@h", "found a user name or password"),
    ],
)
def test_a_server_url_must_be_an_http_url_of_a_host(url: str, said: str) -> None:
    (line,) = problems(ENOUGH | {"RUNQY_SERVER_URL": url})
    assert line.startswith(f"RUNQY_SERVER_URL: server.url: {said}")
    assert "allowed is http://host:port or https://host" in line


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://localhost:8081/", False),
        ("http://127.0.0.2:8081", False),
        ("http://[::1]:8081", False),
        ("https://runqy.example.com/base//", False),
        ("http://runqy.example.com", True),
        ("HTTP://10.0.0.1", True),
    ],
)
def test_http_to_another_host_warns(url: str, warns: bool) -> None:
    config = load_config(environ=ENOUGH | {"RUNQY_SERVER_URL": url})
    assert config.server.url == url.rstrip("/")
    assert any("unencrypted" in warning for warning in config.warnings) is warns


@pytest.mark.parametrize("name", ["a{b", "a}b", "a b", "a\tb", "a/b", "-a", ".", "..", "a.", ":a", "a\x7f", "\u2028"])
def test_a_queue_name_that_cannot_be_one_is_refused(files: Files, name: str) -> None:
    (line,) = files.problems(yaml.safe_dump({"worker": {"queues": ["fine", name]}}), without("RUNQY_QUEUES"))
    assert line.startswith("config.yml:")
    assert f"worker.queues: found {name!r}; a " in line


def test_an_empty_queue_name_is_refused() -> None:
    assert problems(ENOUGH | {"RUNQY_QUEUES": "a,,b"}) == ["RUNQY_QUEUES: worker.queues: found an empty name"]


@pytest.mark.parametrize(
    ("missing", "path"),
    [("RUNQY_SERVER_URL", "server.url"), ("RUNQY_API_KEY", "server.api_key"), ("RUNQY_QUEUES", "worker.queue")],
)
def test_what_is_required_is_asked_for_with_its_variable(missing: str, path: str) -> None:
    (line,) = problems(without(missing))
    assert line.startswith(f"{path}: required")
    assert missing in line


def test_a_library_user_needs_no_server() -> None:
    config = load_config(environ={"RUNQY_REDIS_ADDRESS": "[::1]:6380"}, server_required=False)
    assert config.redis.address == "[::1]:6380"
    assert config.queues() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {ca_file: /no/ca.pem}", "server.ca_file: /no/ca.pem is not an existing file"),
        ("git: {ssh_key: ~/no-key}", "git.ssh_key: ~/no-key is not an existing file; ~ is not expanded, write ${HOME}"),
        ("git: {known_hosts: /no/hosts}", "git.known_hosts: /no/hosts is not an existing file"),
        ("redis: {ca_file: /no/ca.pem}", "redis.ca_file: /no/ca.pem is not an existing file"),
        ("redis: {cert_file: /no/c}", "redis.cert_file: /no/c is not an existing file"),
        ("redis: {cert_file: /no/c}", "redis.cert_file: needs redis.key_file"),
        ("redis: {key_file: /no/k}", "redis.key_file: needs redis.cert_file"),
        ("redis: {address: 'h:0'}", 'redis.address: found the port "0"; allowed is a number from 1 to 65535'),
        ("redis: {address: 'a:b:1'}", "redis.address: found"),
        ("status: {listen: somewhere}", "status.listen: found"),
        ("status: {listen: 'unix:'}", "status.listen: found 'unix:'; after unix: stands the path of a socket"),
        ('status: {listen: "/run/a\\nb"}', "status.listen: found '/run/a\\nb'"),
        ("status: {listen: '127.0.0.1:0'}", 'status.listen: found the port "0"'),
        ("recovery: {max_delay: 1s, initial_delay: 2s}", "recovery.max_delay (1s) is less than recovery.initial_delay"),
        ("recovery: {initial_delay: 10m}", "recovery.initial_delay: recovery.max_delay (5m) is less than"),
        ("deployment: {offline: true}", "deployment.offline: needs deployment.find_links"),
        ("deployment: {dir: ''}", "deployment.dir: must not be empty"),
        ("server: {timeout: 0}", "server.timeout: must be longer than 0"),
        ("redis: {layout: flat, cluster: true}", "redis.layout: flat is not for Redis Cluster"),
        ("redis: {cluster: true, db: 1}", "redis.db: found 1; Redis Cluster has no other database than 0"),
        ("redis: {address: 'a:1,b:2'}", "redis.address: found 2 addresses; more than one needs redis.cluster"),
        ("redis: {cluster: true, address: 'a:1,b:0'}", 'redis.address: found the port "0"'),
        ("redis: {cluster: true, address: 'a:1,'}", 'redis.address: found "", which names no host'),
        ("redis: {sentinel: {master_name: m}}", "redis.sentinel.nodes: required beside the other keys there: a list"),
        (
            "redis: {sentinel: {nodes: [a]}}",
            "redis.sentinel.master_name: required beside the other keys there: the name",
        ),
        ("redis: {sentinel: {master_name: m, nodes: ['a:0']}}", 'redis.sentinel.nodes: found the port "0"'),
        ("redis: {sentinel: {master_name: m, nodes: ['']}}", 'redis.sentinel.nodes: found "", which names no host'),
        (
            "redis: {sentinel: {master_name: m, nodes: [a]}, cluster: true}",
            "redis.cluster: redis.sentinel is given too; keep one of them",
        ),
        (
            "redis: {sentinel: {master_name: m, nodes: [a]}, address: b}",
            "redis.address: redis.sentinel is given too, and says where the master is; keep one of them",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(files: Files, text: str, said: str) -> None:
    found = files.problems(text)
    assert any(line.startswith("config.yml:1: ") and said in line for line in found)


def test_a_line_of_a_section_within_a_section_is_named(files: Files) -> None:
    text = "redis:\n  sentinel:\n    master_name: m\n    nodes: [a]\n    x: 5\n"
    (line,) = files.problems(text)
    assert line.startswith("config.yml:5: redis.sentinel.x: unknown key; redis.sentinel has master_name, nodes, ")


def test_more_processes_than_tasks_at_once_are_warned_of(files: Files) -> None:
    (warning,) = files.load("worker: {processes: 3, concurrency: 2}").warnings
    assert warning.endswith("worker.processes: found 3, more than worker.concurrency (2): some will have no task")
    assert files.load("worker: {processes: 2, concurrency: 2, gpus: auto, max_tasks_per_process: 5}").warnings == []


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 << 30), ("512M", 512 << 20), ("1.5GB", 1_500_000_000), ("4096", 4096), ("0", 0)]
)
def test_sizes_have_units(files: Files, text: str, size: int) -> None:
    assert files.load(f"worker: {{max_process_memory: {text}}}").worker.max_process_memory == size


@pytest.mark.parametrize("text", ["8 apples", "-1", "1e9", "true", "[1]", "GiB"])
def test_what_is_no_size_is_refused_with_what_is_allowed(files: Files, text: str) -> None:
    (line,) = files.problems(f"worker: {{max_process_memory: {text}}}")
    assert "worker.max_process_memory: found" in line
    assert "8GiB" in line
