"""The server's answer to a registration, as types.

Go writes an empty map, list or pointer as ``null``; that is read as empty. Unknown fields are ignored. A field that is
missing or of the wrong type is named by its path, never with its value: most of them are secrets.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from runqy_agent.config.address import parse_address, parse_addresses
from runqy_agent.config.settings import Secret
from runqy_agent.errors import RegistrationError

_DEFAULT_REDIS_PORT = 6379
_DEFAULT_STARTUP_SECONDS = 300
_MOST = 2**31 - 1
"""The largest number that everybody who reads it can hold: asynq's records have 32 bits for a priority."""
_LONGEST_STARTUP_SECONDS = 7 * 24 * 3600
_MODES: tuple[Literal["long_running", "one_shot"], ...] = ("long_running", "one_shot")

_T = TypeVar("_T")


class ServerRedis(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is, as the server says.

    ``addr`` is ``host:port``, ``[v6]:port`` or a host alone; several of them, with commas, are nodes of a cluster.
    """

    addr: str
    username: str = ""
    password: Secret = Secret("")
    db: int = 0
    use_tls: bool = False

    def host_and_port(self) -> tuple[str, int]:
        """``addr``, split; the port is 6379 unless given."""
        return parse_address(self.addr, _DEFAULT_REDIS_PORT)


class Queue(msgspec.Struct, frozen=True):
    """A parent queue. ``priority`` is at least 1 and fits into 32 bits."""

    name: str
    priority: int = 1


class SubQueue(msgspec.Struct, frozen=True):
    """A queue that tasks are put in. ``priority`` is its weight, at least 1 and of 32 bits."""

    name: str
    priority: int = 1


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What to run for a parent queue. ``startup_timeout_secs`` is in seconds, a week at most."""

    git_url: str
    branch: str
    startup_cmd: str
    code_path: str = ""
    requirements_file: str = ""
    env_vars: dict[str, str] = msgspec.field(default_factory=dict)
    startup_timeout_secs: int = _DEFAULT_STARTUP_SECONDS
    mode: Literal["long_running", "one_shot"] = "long_running"
    redis_storage: bool = False

    def __repr__(self) -> str:
        # The URL, the command and the variables may each hold a secret.
        return f"Deployment(branch={self.branch!r}, code_path={self.code_path!r}, mode={self.mode!r})"


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One server response: everything needed to serve one parent queue.

    ``vaults`` are secrets for the supervised process's environment, name to value; ``repr`` does not show them.
    """

    redis: ServerRedis
    queue: Queue
    sub_queues: list[SubQueue]
    deployment: Deployment
    vaults: dict[str, str] = msgspec.field(default_factory=dict)
    git_token: Secret | None = None

    def secrets(self) -> list[str]:
        """Every secret value the server has sent, for redaction only."""
        values = [*self.vaults.values(), self.redis.password.reveal()]
        return [*values, self.git_token.reveal()] if self.git_token else values

    def __repr__(self) -> str:
        return f"Registration(queue={self.queue!r}, sub_queues={self.sub_queues!r}, deployment={self.deployment!r})"


def read_answer(body: bytes) -> Registration:
    """Decode a response body.

    Raises:
        RegistrationError: it is not JSON, or fields are missing or ill-typed; all of them are named.
    """
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RegistrationError(f"the server's answer is not valid JSON: {reason}") from None
    if not isinstance(raw, dict):
        raise RegistrationError(f"the server's answer is {_kind(raw)} instead of a JSON object")
    problems: list[str] = []
    registration = _registration(_Fields(raw, "", problems))
    if problems:
        raise RegistrationError("the server's answer " + "; it ".join(problems))
    return registration


class _Fields:
    """One JSON object, read field by field; what is wrong goes to ``problems`` and a stand-in is returned."""

    def __init__(self, raw: dict[str, Any], path: str, problems: list[str]) -> None:
        self._raw = raw
        self._path = path
        self._problems = problems

    def required_text(self, name: str) -> str:
        value = self.text(name)
        if not value and self._raw.get(name) in (None, ""):
            self._problems.append(f"lacks {self._at(name)}")
        return value

    def text(self, name: str) -> str:
        return self._typed(name, str, "", "a string")

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, default=False, wanted="true or false")

    def number(self, name: str, least: int, most: int) -> int:
        """A number, brought within its bounds; 0 where there is none."""
        value = self._typed(name, int, None, "an integer")
        return 0 if value is None else min(max(least, value), most)

    def mapping(self, name: str) -> dict[str, str]:
        pairs: dict[str, Any] = self._typed(name, dict, {}, "an object")
        for key, value in pairs.items():
            if not isinstance(value, str):
                self._wrong(f"{name}.{key}", value, "a string")
        return pairs

    def below(self, name: str) -> _Fields:
        if self._raw.get(name) is None:
            return _Fields({}, self._at(name), self._problems)
        body: dict[str, Any] | None = self._typed(name, dict, None, "an object")
        # An ill-typed object is one problem, not one for each field it lacks.
        return _Fields(body or {}, self._at(name), self._problems if body is not None else [])

    def items(self, name: str) -> list[_Fields]:
        found = []
        for index, item in enumerate(self._typed(name, list, [], "a list")):
            if isinstance(item, dict):
                found.append(_Fields(item, self._at(f"{name}[{index}]"), self._problems))
            else:
                self._wrong(f"{name}[{index}]", item, "an object")
        return found

    def reject(self, name: str, problem: str) -> None:
        self._problems.append(f"has {problem} at {self._at(name)}")

    def _typed(self, name: str, wanted_type: type, default: _T, wanted: str) -> Any | _T:
        value = self._raw.get(name)
        if value is None:
            return default
        if type(value) is not wanted_type:
            self._wrong(name, value, wanted)
            return default
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> None:
        self.reject(name, f"{_kind(value)} instead of {wanted}")

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _registration(answer: _Fields) -> Registration:
    queue = answer.below("queue")
    parent = Queue(queue.required_text("name"), _priority(queue))
    subs = [SubQueue(sub.required_text("name"), _priority(sub)) for sub in answer.items("sub_queues")]
    token = answer.text("git_token")
    return Registration(
        redis=_redis(answer.below("redis")),
        queue=parent,
        sub_queues=subs or [SubQueue(f"{parent.name}.default", parent.priority)],
        deployment=_deployment(answer.below("deployment")),
        vaults=answer.mapping("vaults"),
        git_token=Secret(token) if token else None,
    )


def _priority(queue: _Fields) -> int:
    return max(1, queue.number("priority", 1, _MOST))


def _redis(redis: _Fields) -> ServerRedis:
    found = ServerRedis(
        addr=redis.required_text("addr"),
        username=redis.text("username"),
        password=Secret(redis.text("password")),
        db=redis.number("db", -1, _MOST),
        use_tls=redis.flag("use_tls"),
    )
    if found.addr:
        try:
            parse_addresses(found.addr, _DEFAULT_REDIS_PORT)
        except ValueError as error:
            redis.reject("addr", f"a malformed address ({error})")
    if found.db < 0:
        redis.reject("db", "a negative number")
    return found


def _deployment(deployment: _Fields) -> Deployment:
    mode, seconds = deployment.text("mode"), deployment.number("startup_timeout_secs", -1, _LONGEST_STARTUP_SECONDS)
    known = next((known for known in _MODES if known == mode), None)
    if mode and not known:
        deployment.reject("mode", f"an unknown mode (known are {' and '.join(_MODES)})")
    if seconds < 0:
        deployment.reject("startup_timeout_secs", "a negative number")
    return Deployment(
        git_url=deployment.required_text("git_url"),
        branch=deployment.required_text("branch"),
        startup_cmd=deployment.required_text("startup_cmd"),
        code_path=deployment.text("code_path"),
        requirements_file=deployment.text("requirements_file"),
        env_vars=deployment.mapping("env_vars"),
        startup_timeout_secs=seconds or _DEFAULT_STARTUP_SECONDS,
        mode=known or "long_running",
        redis_storage=deployment.flag("redis_storage"),
    )


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
