"""A whole worker with every kind of secret, at log level debug: none of them can be found anywhere it leaves traces."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from deployment_kit import spy_on
from git_http_server import git_server
from runqy_agent.child_environment import PROCESS
from runqy_agent.demo.redis_server import RedisServer, free_port
from runqy_agent.errors import ExitCode
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from stage import Agent

QUEUE = "inference.default"
REDIS_PASSWORD = "redis-hush-7741"
API_KEY = "key-hush-1188"
GIT_TOKEN = "git-hush-9925"
PLAIN, QUOTED = "vault-hush-3306", 'vault "hush" \\5518 é'
LINES = "-----BEGIN-----\nvault-hush-6620\nvault-hush-6621\n-----END-----"
VAULTS = {
    "PLAIN": PLAIN,
    "QUOTED": QUOTED,
    "LINES": LINES,
    "LD_PRELOAD": "vault-hush-preload.so",
    "BASH_ENV": "vault-hush-bashrc",
}
FORMS = sorted(
    {REDIS_PASSWORD, API_KEY, GIT_TOKEN, PLAIN, *LINES.splitlines()[1:3], "vault-hush-preload", "vault-hush-bashrc"}
    | {QUOTED, repr(QUOTED)[1:-1], json.dumps(QUOTED)[1:-1], quote(QUOTED, safe="")}
)  # fmt: skip
"""Every form in which a secret could show; of those of several lines each line that is one."""

AUTHOR = """
import json, os, sys, traceback

say = lambda **line: print(json.dumps(line), flush=True)
values = [os.environ[name] for name in ("PLAIN", "QUOTED", "LINES")]
say(status="ready")
for line in sys.stdin:
    task = json.loads(line)
    how = task["payload"]["how"]
    answer = {"task_id": task["task_id"], "result": None, "error": None, "retry": False}
    for value in values:
        for stream in (sys.stdout, sys.stderr):
            print("whole:", value, repr(value), json.dumps(value), file=stream, flush=True)
            stream.write("halves: " + value[: len(value) // 2])
            stream.flush()
            stream.write(value[len(value) // 2 :] + "\\n")
            stream.flush()
    if how == "long":
        for stream in (sys.stdout, sys.stderr):
            for length in (16 * 1024, 4 * 1024, 1000):
                print("x" * (length - 1 - len(values[0]) // 2), values[0], "y" * 20_000, file=stream, flush=True)
    elif how == "fail":
        answer["error"] = "cannot log in with " + " or ".join([*values, *map(repr, values)])
    elif how == "object":
        answer["error"] = {"tried": values}
    elif how == "raise":
        try:
            raise ValueError(values)
        except ValueError:
            answer["error"] = traceback.format_exc()
    elif how == "retry":
        answer |= {"error": "busy: " + values[0], "retry": True}
    elif how == "die":
        sys.exit("died of " + values[0])
    elif how == "names":
        answer["result"] = sorted(os.environ)
    say(**answer)
"""


def hits(text: str) -> list[str]:
    """The secrets in a text."""
    return [form for form in FORMS if form in text]


class CommandLines:
    """Looks through the command lines of all processes until it is told to stop."""

    def __init__(self) -> None:
        self.leaks: set[str] = set()
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    try:
                        line = Path(entry.path, "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
                    except OSError:
                        continue
                    self.seen.add(line)
                    self.leaks |= {f"{form} in {line}" for form in hits(line)}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Place:
    """A Redis with a password, a registration server with a key, a Git server with a token, and vaults."""

    def __init__(self, directory: Path, client: redis.Redis, stage: Stage, git_calls: Path) -> None:
        self.directory = directory
        self.redis = client
        self.stage = stage
        self.git_calls = git_calls

    def agent(self, *, log_format: str, environment: dict[str, str] | None = None) -> Agent:
        self.port = free_port()
        return self.stage.agent(
            log_level="debug",
            log_format=log_format,
            api_key=API_KEY,
            status_listen=f"127.0.0.1:{self.port}",
            recovery_initial_delay="100ms",
            environment=environment or {},
        )

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def everything_in_redis(self) -> str:
        """All keys with all they hold."""
        parts: list[str] = []
        for key in self.redis.scan_iter(count=1000):
            kind = self.redis.type(key)
            read = {
                b"hash": self.redis.hgetall,
                b"list": lambda key: self.redis.lrange(key, 0, -1),
                b"set": self.redis.smembers,
                b"zset": lambda key: self.redis.zrange(key, 0, -1),
                b"string": self.redis.get,
            }[kind]  # type: ignore[index]  # redis-py's types serve its asynchronous client too
            parts.append(f"{key!r}: {_flat(read(key))}")
        return "\n".join(parts)

    def files_with_secrets(self) -> list[str]:
        """Files of the deployment directory that hold one."""
        needles = [form.encode() for form in FORMS]
        files = [
            path for path in (self.directory / "deployments").rglob("*") if path.is_file() and not path.is_symlink()
        ]
        assert [path for path in files if path.name == "config"], "Git's own settings are among them"
        return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


def _flat(value: object) -> str:
    """As text, bytes with their characters and not in Python's quotes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return "\n".join(f"{_flat(key)}={_flat(each)}" for key, each in value.items())
    return "\n".join(map(_flat, value)) if isinstance(value, (list, set, tuple)) else str(value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    config = tmp_path / "redis.conf"
    config.write_text(f"requirepass {REDIS_PASSWORD}\n", encoding="utf-8")  # its command line is looked at too
    bindir, calls = spy_on("git", tmp_path / "spy")
    monkeypatch.setenv("PATH", f"{bindir}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operators-own")
    with ExitStack() as stack:
        server = RedisServer(config_file=config)
        stack.callback(server.close)
        client = server.client()
        client.connection_pool.connection_kwargs["password"] = REDIS_PASSWORD
        stack.callback(client.close)
        stage = Stage(tmp_path, tmp_path / "deployments", client, server.address)
        stack.callback(stage.close)
        stage.server.api_key = API_KEY
        stage.server.redis["password"] = REDIS_PASSWORD
        git = stack.enter_context(git_server(tmp_path, "x-access-token", GIT_TOKEN))
        url = f"http://127.0.0.1:{git.server_port}/inference.git/.git"
        stage.queue("inference", {"main.py": AUTHOR}, git_url=url, env_vars={"MODEL": "small"})
        stage.server.queues["inference"].vaults = dict(VAULTS)
        stage.server.queues["inference"].git_token = GIT_TOKEN
        yield Place(tmp_path, client, stage, calls)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_whole_worker_leaves_no_secret_in_any_of_its_traces(place: Place, log_format: str) -> None:
    stage, watch = place.stage, CommandLines()
    try:
        agent = place.agent(log_format=log_format).wait_running()
        ids = {}
        for how in ("print", "fail", "object", "raise", "retry", "die", "names"):
            ids[how] = stage.client.enqueue(QUEUE, json.dumps({"how": how}).encode())
            stage.until_state(QUEUE, ids[how], "completed", "archived", "retry")
        until(lambda: json.loads(place.ask("/status"))["processes"]["inference"]["state"] == "ready", "it is up again")
        told = "\n".join(place.ask(path) for path in ("/status", "/health", "/metrics"))
        stored, record = place.everything_in_redis(), agent.record()
        assert agent.terminate() == 0
    finally:
        watch.stop()
    log = agent.log()
    # The places that are searched are the right ones.
    assert "whole: ***" in log
    assert "DEBUG" in log or '"debug"' in log
    assert record["status"] == "running"
    assert "cannot log in with ***" in stored
    assert "died of ***" in stored
    assert any("-m runqy_agent run" in line for line in watch.seen)
    assert any(line.endswith("main.py ") for line in watch.seen)
    assert "fetch" in place.git_calls.read_text(encoding="utf-8")
    # And none of them holds any.
    assert hits(log) == []
    assert hits(told) == []
    assert hits(stored) == []
    assert watch.leaks == set()
    assert hits(place.git_calls.read_text(encoding="utf-8")) == []
    assert place.files_with_secrets() == []
    for name in ("LD_PRELOAD", "BASH_ENV"):
        assert f"the vault value {name} is not set" in log


@pytest.mark.parametrize("how", ["long", "die"])
def test_where_a_long_line_is_cut_no_half_of_a_secret_is_left(place: Place, how: str) -> None:
    agent = place.agent(log_format="text").wait_running()
    for each in dict.fromkeys(("long", how)):
        task = place.stage.client.enqueue(QUEUE, json.dumps({"how": each}).encode())
        place.stage.until_state(QUEUE, task, "completed", "archived", "retry")
    stored = place.everything_in_redis()
    assert agent.terminate() == 0
    for text in (agent.log(), stored):
        assert [
            text[found.start() - 9 : found.end() + 9] for found in re.finditer(PLAIN[: len(PLAIN) // 2], text)
        ] == []
    assert "xxxxxxxx" in agent.log()


def test_the_process_finds_exactly_the_allowed_environment(place: Place) -> None:
    place.agent(log_format="text", environment={"NOTIFY_X": "1", "PYTHONWARNINGS": "ignore"}).wait_running()
    task = place.stage.client.enqueue(QUEUE, b'{"how": "names"}')
    place.stage.until_state(QUEUE, task, "completed")
    info = place.stage.client.info(QUEUE, task)
    assert info is not None
    names = set(json.loads(info.result or b"[]"))
    own = {"PLAIN", "QUOTED", "LINES", "MODEL", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "VIRTUAL_ENV"}
    mark = {"SUPERVISED_PROCESS_ID", "SUPERVISED_BY"}  # see process/descendants.py
    assert own <= names
    assert [name for name in names - own - mark if name not in PROCESS] == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"api_key": "key-wrong-1"}, ExitCode.REGISTRATION),
        ({"redis_password": "password-wrong-1"}, ExitCode.BROKER),
        ({"git_token": "token-wrong-1"}, ExitCode.DEPLOYMENT),
    ],
    ids=["key", "redis", "git"],
)
def test_a_refused_secret_is_in_no_error(place: Place, change: dict[str, str], code: ExitCode) -> None:
    stage = place.stage
    settings = {"log_level": "debug", "api_key": API_KEY, **change}
    agent = stage.agent(**settings)
    assert agent.wait() == code
    assert hits(agent.log()) == []
    assert [value for value in change.values() if value in agent.log()] == []


def test_an_author_program_that_cannot_start_names_its_secrets_in_no_error(place: Place) -> None:
    repository = place.stage.queue("broken", {"main.py": "import os\nraise SystemExit(os.environ['QUOTED'] * 3)\n"})
    place.stage.server.queues["broken"].vaults = dict(VAULTS)
    assert repository.url
    agent = place.stage.agent("broken", log_level="debug", api_key=API_KEY)
    assert agent.wait() == ExitCode.PROCESS_NOT_READY
    assert "***" in agent.log()
    assert hits(agent.log()) == []
