from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config_kit import DURATION, ENOUGH, Files, problems
from runqy_agent.config import load_config
from runqy_agent.config.keys import KEYS
from runqy_agent.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "config.yml: found a list at the top level; allowed is a mapping of sections"),
        ("text", "config.yml: found a single value at the top level; allowed is a mapping of sections"),
        ("a: [1\nb: 2\n", "config.yml:2: not valid YAML"),
        ("\n\tworker: 1", "config.yml:2: not valid YAML"),
        ("a: \x01", "config.yml: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "config.yml:2: not valid YAML"),
        ("worker: !!python/object:os.system {}", "config.yml:1: not valid YAML"),
        ("worker: {concurrency: !!int x}", "config.yml: not valid YAML"),
        ("worker: {queue: 2024-13-45}", "put dates in quotes"),
        ("[" * 5000, "not valid YAML"),
        (b"worker:\n  queue: \xff\n", "config.yml:2: not UTF-8 text"),
        (b"#" * 1_100_000, "larger than"),
        ("worker:\n  queue: a\n  queue: b\n", "config.yml:3: worker.queue: given twice, first on line 2"),
        ("log: {level: info}\nlog: {}\n", "config.yml:2: log: given twice, first on line 1"),
        ("redis: {sentinel: {a: 1, a: 2}}", "config.yml:1: redis.sentinel.a: given twice"),
        ("worker: 5", "config.yml:1: worker: found an integer; allowed is a mapping with queue, queues"),
        ("worker: [queue]", "config.yml:1: worker: found a list; allowed is a mapping with queue, queues"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(files: Files, text: str | bytes, said: str) -> None:
    assert said in "\n".join(files.problems(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert problems(path=tmp_path / "none.yml") == [
        f"{tmp_path}/none.yml: cannot read the configuration file: No such file or directory"
    ]
    assert problems(path=tmp_path) == [f"{tmp_path}: cannot read the configuration file: Is a directory"]


def test_all_problems_are_reported_at_once(files: Files) -> None:
    found = files.problems("worker: {concurrency: 0}\nbootstrap: {retries: x}", {"RUNQY_LOG_LEVEL": "loud"})
    for path in (
        "worker.concurrency",
        "bootstrap.retries",
        "log.level",
        "server.url",
        "server.api_key",
        "worker.queue",
    ):
        assert sum(f"{path}: " in line for line in found) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {timeot: 3s}", "config.yml:1: server.timeot: unknown key; did you mean server.timeout?"),
        ("server: {api-key: k}", "server.api-key: unknown key; did you mean server.api_key?"),
        ("worker: {retries: 3}", "worker.retries: unknown key; did you mean bootstrap.retries?"),
        ("log: {Level: info}", "log.Level: unknown key; did you mean log.level?"),
        ("worker: {zzz: 3}", "worker.zzz: unknown key; worker has queue, queues, concurrency"),
        ("worker: {1: 3}", "worker.1: unknown key"),
        ("workers: {concurrency: 4}", "config.yml:1: workers: unknown section; did you mean worker?"),
        ("concurrency: 4", "concurrency: unknown key; did you mean worker.concurrency?"),
        ("server.url: x", "server.url: unknown key; write url below server:"),
        ("warnings: []", "warnings: unknown key; the sections are server, worker"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_key(files: Files, text: str, said: str) -> None:
    assert said in "\n".join(files.problems(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'worker: {concurrency: "4"}',
            'worker.concurrency: found "4" (a string); allowed is an integer of at least 1; write it without quotes',
        ),
        ("worker: {concurrency: four}", 'worker.concurrency: found "four" (a string); allowed is an integer of at'),
        ("worker: {concurrency: 0}", "worker.concurrency: found 0 (an integer); allowed is an integer of at least 1"),
        ("worker: {concurrency: true}", "worker.concurrency: found true (a boolean); allowed is an integer"),
        ("worker: {concurrency: 1.5}", "worker.concurrency: found 1.5 (a number); allowed is an integer"),
        ("worker: {concurrency: null}", "worker.concurrency: found nothing (null); allowed is an integer"),
        ("worker: {concurrency: [1]}", "worker.concurrency: found a list; allowed is an integer"),
        (f"worker: {{concurrency: 0x{'f' * 5000}}}", "worker.concurrency: found an integer of more than 64 bits"),
        ("worker: {max_message_bytes: 1000}", "allowed is an integer of at least 1024"),
        ("retry: {max_retry: -1}", "retry.max_retry: found -1 (an integer); allowed is an integer of at least 0"),
        (
            "worker: {shutdown_timeout: 30}",
            f'worker.shutdown_timeout: found 30 (an integer); {DURATION}; write it with its unit: "30s"',
        ),
        (
            'worker: {shutdown_timeout: "30"}',
            f'worker.shutdown_timeout: found "30" (a string); {DURATION}; did you mean "30s"?',
        ),
        ("worker: {shutdown_timeout: -5}", "it must not be negative"),
        ("worker: {shutdown_timeout: soon}", f'worker.shutdown_timeout: found "soon" (a string); {DURATION}'),
        ("worker: {shutdown_timeout: true}", f"worker.shutdown_timeout: found true (a boolean); {DURATION}"),
        (
            'worker: {strict_priority: "yes"}',
            'worker.strict_priority: found "yes" (a string); allowed is true or false; write it without quotes',
        ),
        ("worker: {strict_priority: 1}", "worker.strict_priority: found 1 (an integer); allowed is true or false"),
        (
            "log: {level: warn}",
            'log.level: found "warn" (a string); allowed is one of debug, error, info, warning; did you mean warning?',
        ),
        ("recovery: {backoff_factor: 0.5}", "recovery.backoff_factor: found 0.5 (a number); allowed is a number of at"),
        ("recovery: {backoff_factor: .inf}", "recovery.backoff_factor: found inf (a number)"),
        ("recovery: {backoff_factor: .nan}", "recovery.backoff_factor: found nan (a number)"),
        ("deployment: {find_links: wheels}", 'deployment.find_links: found "wheels" (a string); allowed is a list'),
        ("deployment: {find_links: wheels}", "write it as a list: [wheels]"),
        ("worker: {queues: [a, no]}", "worker.queues: found a list; allowed is a list of strings; item 2 is false"),
        ("deployment: {dir: 5}", "deployment.dir: found 5 (an integer); allowed is a string; put it in quotes"),
        ("git: {ssh_key: }", 'git.ssh_key: found nothing (null); allowed is a string; write "" or leave the key out'),
        ("redis: {sentinel: a}", "redis.sentinel: found a string; allowed is a mapping with master_name, nodes"),
        ("redis: {sentinel: [a]}", "redis.sentinel: found a list; allowed is a mapping with master_name, nodes"),
        ("redis: {sentinel: {nodes: a}}", 'redis.sentinel.nodes: found "a" (a string); allowed is a list of strings'),
        ("redis: {sentinel: {name: a}}", "redis.sentinel.name: unknown key; did you mean redis.sentinel.username?"),
        ("redis: {sentinel: {x: a}}", "redis.sentinel.x: unknown key; redis.sentinel has master_name, nodes, username"),
        ("redis: {sentinal: {nodes: [a]}}", "redis.sentinal: unknown key; did you mean redis.sentinel?"),
        ("redis: {sentinel.nodes: [a]}", "redis.sentinel.nodes: unknown key; write nodes below redis.sentinel:"),
        ("redis.sentinel.nodes: [a]", "redis.sentinel.nodes: unknown key; write nodes below redis.sentinel:"),
        ("redis.sentinel: {nodes: [a]}", "redis.sentinel: unknown key; write sentinel below redis:"),
        (f"deployment: {{dir: [{'x' * 500}]}}", "deployment.dir: found a list; allowed is a string"),
    ],
)
def test_a_malformed_value_is_named_with_what_is_allowed(files: Files, text: str, said: str) -> None:
    found = files.problems(text)
    assert f"config.yml:1: {said}" in found[0] or said in found[0]
    assert found[0].startswith("config.yml:1: ")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "RUNQY_CONCURRENCY",
            "four",
            'worker.concurrency: found "four" (a string); allowed is an integer of at least 1',
        ),
        ("RUNQY_CONCURRENCY", "1_0", "worker.concurrency: "),
        ("RUNQY_CONCURRENCY", "9" * 5000, "worker.concurrency: "),
        ("RUNQY_REDIS_TLS", "maybe", 'redis.tls: found "maybe" (a string); allowed is true or false'),
        ("RUNQY_RECOVERY_MAX_DELAY", "300", f'recovery.max_delay: found "300" (a string); {DURATION}; did you mean'),
        ("RUNQY_RECOVERY_BACKOFF_FACTOR", "nan", "recovery.backoff_factor: "),
        ("RUNQY_LOG_FORMAT", "jsn", 'log.format: found "jsn" (a string); allowed is one of auto, journald, json, text'),
        ("RUNQY_LOG_FORMAT", "jsn", "did you mean json?"),
    ],
)
def test_a_malformed_variable_is_named(name: str, value: str, said: str) -> None:
    (line,) = problems(ENOUGH | {name: value})
    assert line.startswith(f"{name}: ")
    assert said in line


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["${HOME}", "${", "$${", "5s", "-1", "${A:-b}", "[", "::1", "http://h", "https://[", "@"]),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SCALARS, inner, max_size=3), max_leaves=6
)
_NAMES = st.one_of(st.sampled_from(sorted({key.name for key in KEYS.values()})), _SCALARS)
_SECTIONS = st.one_of(st.sampled_from(sorted({key.section for key in KEYS.values()})), _SCALARS)
_MAPPINGS = st.dictionaries(_SECTIONS, st.dictionaries(_NAMES, _VALUES, max_size=5) | _VALUES, max_size=5)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=_MAPPINGS)
def test_whatever_a_file_says_only_a_configuration_error_comes_of_it(tmp_path: Path, data: object) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), "utf-8", "surrogatepass")
    with contextlib.suppress(ConfigError):
        load_config(path, environ=ENOUGH)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_whatever_bytes_a_file_holds_only_a_configuration_error_comes_of_it(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(raw)
    with contextlib.suppress(ConfigError):
        load_config(path, environ=ENOUGH)


@settings(max_examples=200)
@given(values=st.dictionaries(st.sampled_from(sorted(KEYS)), st.text(max_size=20) | st.sampled_from(["5s", "1", "on"])))
def test_whatever_the_command_line_says_only_a_configuration_error_comes_of_it(values: dict[str, str]) -> None:
    with contextlib.suppress(ConfigError):
        load_config(environ=ENOUGH, overrides=values)
