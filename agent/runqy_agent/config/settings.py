"""The settings as types: one struct for each section of ``config.yml``.

Every key, its default and its bounds stand here and nowhere else. Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from runqy_agent.config.duration import Duration
from runqy_agent.config.size import Size

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Secret:
    """A value that never shows itself: ``repr``, ``str`` and formatting give asterisks."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Call it only where the secret is used."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"


class Section(Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of all sections: unknown keys are refused."""


class ServerSettings(Section):
    """Where the runqy server is and how to prove who we are."""

    url: str = ""
    api_key: Secret | None = None
    api_key_file: str = ""
    ca_file: str = ""
    timeout: Duration = Duration(30)


class WorkerSettings(Section):
    """What this worker serves, and how much of it at once."""

    queue: str = ""
    queues: list[str] = field(default_factory=list)
    concurrency: Positive = 1
    processes: Positive = 1
    gpus: Literal["", "auto"] = ""
    strict_priority: bool = False
    shutdown_timeout: Duration = Duration(8)
    max_message_bytes: Annotated[int, Meta(ge=1024)] = 32 * 1024 * 1024
    max_tasks_per_process: Count = 0
    max_process_memory: Size = Size(0)
    ttl_completed: Duration = Duration(24 * 3600)
    ttl_archived: Duration = Duration(72 * 3600)
    pending_timeout: Duration = Duration(0)
    active_timeout: Duration = Duration(0)


class BootstrapSettings(Section):
    """How persistently the server is asked at start."""

    retries: Positive = 3
    retry_delay: Duration = Duration(5)


class DeploymentSettings(Section):
    """Where the task author's code and its environments live."""

    dir: str = "./deployment"
    use_system_site_packages: bool = True
    python: str = ""
    keep_releases: Positive = 3
    offline: bool = False
    find_links: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    submodules: bool = False
    build_env: list[str] = field(default_factory=list)
    pass_env: list[str] = field(default_factory=list)
    allowed_repositories: list[str] = field(default_factory=list)
    allowed_commands: list[str] = field(default_factory=list)


class GitSettings(Section):
    """Access to the Git repository."""

    ssh_key: str = ""
    known_hosts: str = ""
    token: Secret | None = None
    token_file: str = ""


class RetrySettings(Section):
    """Retries of failed tasks. An asynq message always says how many it allows; ``max_retry``, if set, is a ceiling."""

    max_retry: Count | None = None


class RecoverySettings(Section):
    """Restart of a crashed process, with a circuit breaker."""

    enabled: bool = True
    max_restarts: Count = 5
    initial_delay: Duration = Duration(1)
    max_delay: Duration = Duration(300)
    backoff_factor: Annotated[float, Meta(ge=1.0)] = 2.0
    cooldown_period: Duration = Duration(600)
    in_flight: Literal["blame_oldest", "fail_all"] = "blame_oldest"


class OneShotSettings(Section):
    """Fresh processes for single tasks."""

    prestart: Count = 1


class SentinelSettings(Section):
    """Sentinels that know where the master is. ``nodes`` are addresses; name and password are the sentinels' own."""

    master_name: str = ""
    nodes: list[str] = field(default_factory=list)
    username: str = ""
    password: Secret | None = None
    password_file: str = ""

    @property
    def configured(self) -> bool:
        """Whether anything is set."""
        return self != SentinelSettings()


class RedisSettings(Section):
    """Overrides of what the server says about Redis. Empty means: as the server says."""

    address: str = ""
    username: str = ""
    password: Secret | None = None
    password_file: str = ""
    db: Count | None = None
    tls: bool | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sentinel: SentinelSettings = field(default_factory=SentinelSettings)
    cluster: bool = False
    layout: Literal["asynq", "flat"] = "asynq"


class StatusSettings(Section):
    """The local status endpoint; an empty address turns it off, and ``auto`` is for ``config.places`` to decide."""

    listen: str = "auto"


class LogSettings(Section):
    """How much is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json", "journald"] = "auto"


class Config(Struct, kw_only=True, forbid_unknown_fields=True):
    """All settings of one agent. ``load_config`` makes and checks one; it adds ``warnings`` and the file's ``path``."""

    server: ServerSettings = field(default_factory=ServerSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    deployment: DeploymentSettings = field(default_factory=DeploymentSettings)
    git: GitSettings = field(default_factory=GitSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    one_shot: OneShotSettings = field(default_factory=OneShotSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    status: StatusSettings = field(default_factory=StatusSettings)
    log: LogSettings = field(default_factory=LogSettings)
    warnings: list[str] = field(default_factory=list)
    path: str = ""

    def secrets(self) -> list[str]:
        """Every secret that the settings hold, for redaction and comparison only."""
        held = (self.server.api_key, self.git.token, self.redis.password, self.redis.sentinel.password)
        return [secret.reveal() for secret in held if secret]

    def queues(self) -> list[str]:
        """The configured queue names, in order, each once."""
        names = [self.worker.queue] if self.worker.queue else self.worker.queues
        return list(dict.fromkeys(names))
