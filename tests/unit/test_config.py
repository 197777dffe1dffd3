from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

from config_kit import ENOUGH, Files, problems
from runqy_agent.config import Config, Duration, Secret, format_duration, load_config
from runqy_agent.config.keys import KEYS

EXAMPLE = """\
server:
  url: "http://localhost:8081"
  api_key: "your-api-key"

worker:
  queue: "inference"      # Single queue
  # queues:               # Or multiple queues
  #   - inference
  #   - simple
  concurrency: 1
  shutdown_timeout: 30s

bootstrap:
  retries: 3
  retry_delay: "5s"

deployment:
  dir: "./deployment"

retry:
  max_retry: 2
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_example_of_the_original_loads_unchanged(files: Files) -> None:
    config = files.load(EXAMPLE, {})
    assert config.server.url == "http://localhost:8081"
    assert config.server.api_key == Secret("your-api-key")
    assert config.queues() == ["inference"]
    assert config.worker.shutdown_timeout == 30.0
    assert isinstance(config.worker.shutdown_timeout, Duration)
    assert config.bootstrap.retry_delay == 5.0
    assert config.retry.max_retry == 2
    assert config.warnings == []


def test_the_environment_alone_is_enough() -> None:
    environ = ENOUGH | {"RUNQY_QUEUES": "a, b.high", "RUNQY_CONCURRENCY": "4", "RUNQY_USE_SYSTEM_SITE_PACKAGES": "off"}
    config = load_config(environ=environ | {"RUNQY_SHUTDOWN_TIMEOUT": "1m", "RUNQY_RECOVERY_BACKOFF_FACTOR": "1.5"})
    assert config.queues() == ["a", "b.high"]
    assert config.worker.concurrency == 4
    assert config.deployment.use_system_site_packages is False
    assert config.worker.shutdown_timeout == 60.0
    assert config.recovery.backoff_factor == 1.5
    assert config.warnings == []


def test_the_stronger_source_wins(files: Files) -> None:
    text = "worker: {concurrency: 1, shutdown_timeout: 1s, strict_priority: true}"
    environ = ENOUGH | {"RUNQY_CONCURRENCY": "2", "RUNQY_SHUTDOWN_TIMEOUT": "2s"}
    config = files.load(text, environ, overrides={"worker.concurrency": "3"})
    assert (config.worker.concurrency, config.worker.shutdown_timeout) == (3, 2.0)
    assert config.worker.strict_priority is True
    assert config.worker.max_tasks_per_process == 0


def test_a_section_within_a_section_follows_the_same_rules(files: Files) -> None:
    text = """
redis:
  sentinel:
    master_name: "${MASTER}"
    nodes: [a, "${NODE:-b:26380}"]
    username: from-file
"""
    environ = ENOUGH | {"MASTER": "tasks", "RUNQY_REDIS_SENTINEL_USERNAME": "from-env"}
    sentinel = files.load(text, environ | {"RUNQY_REDIS_SENTINEL_PASSWORD": "k3y"}).redis.sentinel
    assert sentinel.configured
    assert (sentinel.master_name, sentinel.nodes) == ("tasks", ["a", "b:26380"])
    assert (sentinel.username, sentinel.password) == ("from-env", Secret("k3y"))
    overridden = files.load(text, environ, overrides={"redis.sentinel.nodes": "c, [::1]:1"}).redis.sentinel
    assert (overridden.nodes, overridden.password) == (["c", "[::1]:1"], None)


@pytest.mark.parametrize("text", ["redis:", "redis: {sentinel: }", "redis: {sentinel: {}}", "redis: {cluster: false}"])
def test_without_sentinels_there_is_none(files: Files, text: str) -> None:
    assert not files.load(text).redis.sentinel.configured


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "worker:\n", "\ufeffworker: {concurrency: 1}"])
def test_an_empty_file_or_section_says_nothing(files: Files, text: str) -> None:
    assert files.load(text).worker.concurrency == 1


def test_a_zero_duration_needs_no_unit(files: Files) -> None:
    assert files.load("worker: {shutdown_timeout: 0}").worker.shutdown_timeout == 0.0


def test_values_are_expanded_from_the_environment(files: Files) -> None:
    text = """
worker: {concurrency: "${N}", strict_priority: "${YES}", shutdown_timeout: "${T:-9s}"}
deployment: {dir: "${HOME}/x$${y}$z", find_links: "${LINKS}", python: "${EMPTY:-python3.12}"}
recovery: {backoff_factor: "${F}"}
"""
    environ = ENOUGH | {"N": "4", "YES": "True", "HOME": "/home/a", "LINKS": "/a, /b", "F": "3", "EMPTY": ""}
    config = files.load(text, environ)
    assert config.worker.concurrency == 4
    assert config.worker.strict_priority is True
    assert config.worker.shutdown_timeout == 9.0
    assert config.deployment.dir == "/home/a/x${y}$z"
    assert config.deployment.find_links == ["/a", "/b"]
    assert config.deployment.python == "python3.12"
    assert config.recovery.backoff_factor == 3


def test_an_expanded_value_cannot_change_the_structure(files: Files) -> None:
    config = files.load('deployment: {dir: "${D}"}\n', ENOUGH | {"D": "x}\nserver: {url: evil"})
    assert config.deployment.dir == "x}\nserver: {url: evil"
    assert config.server.url == "https://runqy.example.com"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${NOPE}", "deployment.dir: the environment variable NOPE is not set; set it or write ${NOPE:-default}"),
        ("${NOPE", "deployment.dir: malformed ${...}; allowed are ${VAR}, ${VAR:-default}"),
        ("${NOPE-x}", "deployment.dir: malformed ${...}"),
        ("${1}", "deployment.dir: malformed ${...}"),
        ("${}", "deployment.dir: malformed ${...}"),
    ],
)
def test_a_reference_that_cannot_be_expanded_is_an_error(files: Files, value: str, said: str) -> None:
    assert files.problems(f'deployment: {{dir: "{value}"}}')[0].startswith(f"config.yml:1: {said}")


def test_the_command_line_is_checked_like_the_rest() -> None:
    overrides = {"worker.concurency": "4", "nope": "1", "worker.concurrency": "x", "server.api_key": "hush-hush"}
    found = problems(overrides=overrides)
    assert found[0] == "command line: worker.concurency: unknown key; did you mean worker.concurrency?"
    assert found[1].startswith("command line: nope: unknown key")
    assert found[2].startswith('command line: worker.concurrency: found "x"')
    assert found[3].startswith("command line: server.api_key: a secret on the command line")
    assert "server.api_key_file" in found[3]
    assert "hush" not in "".join(found)


def test_an_unknown_variable_is_a_warning_with_the_nearest_name() -> None:
    config = load_config(environ=ENOUGH | {"RUNQY_CONCURENCY": "4", "RUNQY_VECTORS": "x", "RUNQYX": "", "OTHER": "x"})
    assert config.warnings == [
        "RUNQY_CONCURENCY: not a variable of the agent, ignored; did you mean RUNQY_CONCURRENCY?"
    ]


def test_a_variable_that_the_file_refers_to_is_known(files: Files) -> None:
    assert files.load('deployment: {dir: "${RUNQY_MY_DIR}"}', ENOUGH | {"RUNQY_MY_DIR": "/x"}).warnings == []


def test_an_empty_variable_sets_text_and_nothing_else() -> None:
    config = load_config(environ=ENOUGH | {"RUNQY_STATUS_LISTEN": "", "RUNQY_CONCURRENCY": "", "RUNQY_GIT_TOKEN": ""})
    assert config.status.listen == ""
    assert config.worker.concurrency == 1
    assert config.git.token is None
    assert config.warnings == [
        "RUNQY_CONCURRENCY: empty, ignored; unset it, or give worker.concurrency a value",
        "RUNQY_GIT_TOKEN: empty, ignored; unset it, or give git.token a value",
    ]


def test_the_variables_are_those_of_the_documentation() -> None:
    expected = [
        "RUNQY_SERVER_URL",
        "RUNQY_API_KEY",
        "RUNQY_API_KEY_FILE",
        "RUNQY_QUEUES",
        "RUNQY_CONCURRENCY",
        "RUNQY_PROCESSES",
        "RUNQY_SHUTDOWN_TIMEOUT",
        "RUNQY_TTL_COMPLETED",
        "RUNQY_TTL_ARCHIVED",
        "RUNQY_PENDING_TIMEOUT",
        "RUNQY_ACTIVE_TIMEOUT",
        "RUNQY_BOOTSTRAP_RETRIES",
        "RUNQY_BOOTSTRAP_RETRY_DELAY",
        "RUNQY_DEPLOYMENT_DIR",
        "RUNQY_USE_SYSTEM_SITE_PACKAGES",
        "RUNQY_PYTHON",
        "RUNQY_GIT_SSH_KEY",
        "RUNQY_GIT_KNOWN_HOSTS",
        "RUNQY_GIT_TOKEN",
        "RUNQY_GIT_TOKEN_FILE",
        "RUNQY_MAX_RETRY",
        "RUNQY_RECOVERY_ENABLED",
        "RUNQY_RECOVERY_MAX_RESTARTS",
        "RUNQY_RECOVERY_INITIAL_DELAY",
        "RUNQY_RECOVERY_MAX_DELAY",
        "RUNQY_RECOVERY_BACKOFF_FACTOR",
        "RUNQY_RECOVERY_COOLDOWN_PERIOD",
        "RUNQY_REDIS_ADDRESS",
        "RUNQY_REDIS_USERNAME",
        "RUNQY_REDIS_PASSWORD",
        "RUNQY_REDIS_PASSWORD_FILE",
        "RUNQY_REDIS_DB",
        "RUNQY_REDIS_TLS",
        "RUNQY_REDIS_CA_FILE",
        "RUNQY_REDIS_CERT_FILE",
        "RUNQY_REDIS_KEY_FILE",
        "RUNQY_REDIS_SENTINEL_MASTER_NAME",
        "RUNQY_REDIS_SENTINEL_NODES",
        "RUNQY_REDIS_SENTINEL_USERNAME",
        "RUNQY_REDIS_SENTINEL_PASSWORD",
        "RUNQY_REDIS_SENTINEL_PASSWORD_FILE",
        "RUNQY_REDIS_CLUSTER",
        "RUNQY_REDIS_LAYOUT",
        "RUNQY_STATUS_LISTEN",
        "RUNQY_LOG_LEVEL",
        "RUNQY_LOG_FORMAT",
    ]
    assert {key.env for key in KEYS.values() if key.env} == set(expected)


def test_the_documentation_lists_every_key_with_its_variable_and_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)+)` \| (?:`(\w+)`)? ?\| (.+?) \| .+ \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(KEYS)
    required = {"server.url", "server.api_key", "worker.queue"}
    for path, variable, default in rows:
        assert variable == KEYS[path].env, path
        assert default == ("required" if path in required else _default(path)), path


def _default(path: str) -> str:
    value = attrgetter(path)(Config())
    if isinstance(value, Duration):
        return f"`{format_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value in (None, "", []) else f"`{value}`"
