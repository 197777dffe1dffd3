"""What settings must be beyond their type: present, well-formed, consistent with each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from runqy_agent.config.address import is_loopback, parse_address, parse_addresses
from runqy_agent.config.duration import format_duration
from runqy_agent.config.patterns import CommandPattern, RepositoryPattern, pattern_problem, variable_problem
from runqy_agent.config.places import AUTO

if TYPE_CHECKING:
    from runqy_agent.config.settings import Config, Secret
    from runqy_agent.config.sources import Findings, Given

_DEFAULT_REDIS_PORT = 6379
_DEFAULT_SENTINEL_PORT = 26379
_FILES = ("server.ca_file", "git.ssh_key", "git.known_hosts", "redis.ca_file", "redis.cert_file", "redis.key_file")
_SEPARATORS = (".", ":")


def check(config: Config, given: dict[str, Given], findings: Findings, *, server_required: bool) -> None:
    """Add to ``findings`` what is wrong with the settings together."""
    checks = _Checks(config, given, findings)
    if server_required:
        checks.required()
    checks.server()
    checks.patterns()
    checks.queues()
    checks.files()
    checks.redis()
    checks.sentinel()
    checks.status()
    checks.pool()
    checks.consistency()


def header_safe(secret: Secret) -> bool:
    """Whether a key may stand in an HTTP header: printable ASCII without spaces, and not empty."""
    text = secret.reveal()
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def queue_name_problem(name: str) -> str:
    """What is wrong with a queue's name, or ""."""
    if not name:
        return "found an empty name"
    if any(c in "{}/" or c.isspace() or not c.isprintable() for c in name):
        return f"found {name!r}; a queue's name has no braces, slashes, spaces or control characters"
    if name.startswith("-"):
        return f"found {name!r}; a queue's name does not begin with a dash"
    if name.startswith(_SEPARATORS) or name.endswith(_SEPARATORS):
        return f"found {name!r}; a dot or colon stands between the parts of a queue's name"
    return ""


@dataclass(frozen=True)
class _Checks:
    config: Config
    given: dict[str, Given]
    findings: Findings

    def problem(self, path: str, text: str) -> None:
        origin = f"{self.given[path].origin}: " if path in self.given else ""
        self.findings.problems.append(f"{origin}{path}: {text}")

    def required(self) -> None:
        config, malformed = self.config, self.findings.malformed
        if not config.server.url and "server.url" not in malformed:
            self.problem("server.url", "required; set it in the file, or RUNQY_SERVER_URL in the environment")
        if not config.server.api_key and not malformed & {"server.api_key", "server.api_key_file"}:
            self.problem(
                "server.api_key",
                "required; set it or server.api_key_file in the file, or RUNQY_API_KEY or RUNQY_API_KEY_FILE",
            )
        if not config.queues() and not malformed & {"worker.queue", "worker.queues"}:
            self.problem("worker.queue", "required; set it or worker.queues in the file, or RUNQY_QUEUES")

    def server(self) -> None:
        server = self.config.server
        if server.api_key and not header_safe(server.api_key):
            path = "server.api_key_file" if server.api_key_file else "server.api_key"
            self.problem(path, "the key holds spaces or other than printable ASCII characters")
        if not server.timeout and "server.timeout" in self.given:
            self.problem("server.timeout", "must be longer than 0")
        if not server.url:
            return
        server.url = server.url.rstrip("/")
        try:
            parts = _split_url(server.url)
        except ValueError as error:
            self.problem("server.url", f"{error}; allowed is http://host:port or https://host, with a path if need be")
            return
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            danger = f"http:// to {parts.hostname} sends the key and receives secrets unencrypted; use https://"
            self.findings.warnings.append(f"{self.given['server.url'].origin}: server.url: {danger}")

    def queues(self) -> None:
        path = "worker.queue" if self.config.worker.queue else "worker.queues"
        for name in self.config.queues():
            if problem := queue_name_problem(name):
                self.problem(path, problem)

    def files(self) -> None:
        for path in _FILES:
            section, name = path.split(".")
            file = getattr(getattr(self.config, section), name)
            if file and not Path(file).is_file():
                hint = "; ~ is not expanded, write ${HOME}" if file.startswith("~") else ""
                self.problem(path, f"{file} is not an existing file{hint}")

    def patterns(self) -> None:
        deployment = self.config.deployment
        for name in deployment.pass_env:
            if problem := variable_problem(name):
                self.problem("deployment.pass_env", problem)
        for name in deployment.build_env:
            if problem := variable_problem(name):
                self.problem("deployment.build_env", problem)
        kinds: dict[str, type[RepositoryPattern | CommandPattern]] = {
            "allowed_repositories": RepositoryPattern,
            "allowed_commands": CommandPattern,
        }
        for key, kind in kinds.items():
            for pattern in getattr(deployment, key):
                if problem := pattern_problem(kind, pattern):
                    self.problem(f"deployment.{key}", f"found {pattern!r}: {problem}")

    def redis(self) -> None:
        redis = self.config.redis
        if redis.address:
            try:
                found = parse_addresses(redis.address, _DEFAULT_REDIS_PORT)
            except ValueError as error:
                self.problem("redis.address", str(error))
            else:
                if len(found) > 1 and not redis.cluster:
                    self.problem("redis.address", f"found {len(found)} addresses; more than one needs redis.cluster")
        if redis.cluster and redis.db:
            self.problem("redis.db", f"found {redis.db}; Redis Cluster has no other database than 0")
        if redis.cluster and redis.layout == "flat":
            self.problem("redis.layout", "flat is not for Redis Cluster, where the keys of a queue must share a slot")
        if redis.cert_file and not redis.key_file:
            self.problem("redis.cert_file", "needs redis.key_file beside it")
        if redis.key_file and not redis.cert_file:
            self.problem("redis.key_file", "needs redis.cert_file beside it")

    def sentinel(self) -> None:
        redis, sentinel = self.config.redis, self.config.redis.sentinel
        if not sentinel.configured:
            return
        hints = {"master_name": "the name by which the sentinels know the master", "nodes": "a list of host:port"}
        for name, hint in hints.items():
            path = f"redis.sentinel.{name}"
            if not getattr(sentinel, name) and path not in self.findings.malformed:
                origin = next(one.origin for given, one in self.given.items() if given.startswith("redis.sentinel."))
                self.findings.problems.append(f"{origin}: {path}: required beside the other keys there: {hint}")
        try:
            for node in sentinel.nodes:
                parse_address(node, _DEFAULT_SENTINEL_PORT)
        except ValueError as error:
            self.problem("redis.sentinel.nodes", str(error))
        if redis.cluster:
            self.problem("redis.cluster", "redis.sentinel is given too; keep one of them")
        if redis.address:
            self.problem("redis.address", "redis.sentinel is given too, and says where the master is; keep one of them")

    def status(self) -> None:
        listen = self.config.status.listen
        if listen.startswith(("/", "unix:")):
            path = listen.removeprefix("unix:")
            if not path or not path.isprintable():
                self.problem("status.listen", f"found {listen!r}; after unix: stands the path of a socket")
        elif listen not in {"", AUTO}:
            try:
                parse_address(listen)
            except ValueError as error:
                self.problem("status.listen", f"{error}, the path of a unix socket, {AUTO}, or empty")

    def pool(self) -> None:
        worker = self.config.worker
        if worker.processes > worker.concurrency and "worker.processes" in self.given:
            idle = (
                f"found {worker.processes}, more than worker.concurrency ({worker.concurrency}): some will have no task"
            )
            self.findings.warnings.append(f"{self.given['worker.processes'].origin}: worker.processes: {idle}")

    def consistency(self) -> None:
        recovery, deployment, token = self.config.recovery, self.config.deployment, self.config.git.token
        if recovery.max_delay < recovery.initial_delay:
            longest, first = format_duration(recovery.max_delay), format_duration(recovery.initial_delay)
            path = "recovery.max_delay" if "recovery.max_delay" in self.given else "recovery.initial_delay"
            self.problem(path, f"recovery.max_delay ({longest}) is less than recovery.initial_delay ({first})")
        if deployment.offline and not deployment.find_links:
            self.problem("deployment.offline", "needs deployment.find_links, where the wheels are")
        if not deployment.dir:
            self.problem("deployment.dir", "must not be empty")
        if token and not token.reveal().isprintable():
            self.problem("git.token_file" if self.config.git.token_file else "git.token", "holds control characters")


def _split_url(url: str) -> SplitResult:
    """Take a server's URL apart; a ValueError says what is wrong, without repeating a password."""
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("found a space or control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("found a malformed host or port") from None
    if "@" in parts.netloc:
        raise ValueError("found a user name or password; the key goes into server.api_key")
    if "?" in url or "#" in url:
        raise ValueError("found a query or fragment")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError(f'found "{url}"')
    return parts
