"""Where Redis is: one server, the master that sentinels watch, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.config.address import parse_address, parse_addresses
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from runqy_agent.config import RedisSettings, Secret, SentinelSettings
    from runqy_agent.registration import ServerRedis

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class SentinelAddress:
    """The sentinels that know where the master is.

    Attributes:
        master_name: what they call it.
        nodes: host and port of each.
        username, password: of the sentinels themselves.
    """

    master_name: str
    nodes: tuple[tuple[str, int], ...]
    username: str = ""
    password: Secret | None = None


@dataclass(frozen=True)
class RedisAddress:
    """Everything needed to open a connection.

    Attributes:
        host, port: of the server; of the first seed node of a cluster; without meaning where there are sentinels.
        tls: whether to encrypt; the server's certificate and name are always verified then.
        ca_file: PEM file of the authorities to trust; empty for the system's.
        cert_file, key_file: PEM files of a client certificate; empty for none.
        sentinel: who says where the server is.
        seeds: host and port of nodes of a cluster, any of which tells of the others; empty without a cluster.
    """

    host: str
    port: int = DEFAULT_PORT
    db: int = 0
    username: str = ""
    password: Secret | None = None
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sentinel: SentinelAddress | None = None
    seeds: tuple[tuple[str, int], ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Redis Cluster."""
        return bool(self.seeds)

    def __str__(self) -> str:
        if self.sentinel:
            where = f'master "{self.sentinel.master_name}" of the sentinels {_listed(self.sentinel.nodes)}'
        elif self.seeds:
            where = f"cluster {_listed(self.seeds)}"
        else:
            where = f"{self.host}:{self.port}/{self.db}"
        return where + (" (TLS)" if self.tls else "")

    def tls_options(self) -> dict[str, Any]:
        """What redis-py needs for an encrypted connection; nothing without TLS."""
        if not self.tls:
            return {}
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": self.ca_file or None,
            "ssl_certfile": self.cert_file or None,
            "ssl_keyfile": self.key_file or None,
        }


def resolve(server: ServerRedis | None, settings: RedisSettings) -> RedisAddress:
    """Where Redis is: what the server said, with what the configuration overrides.

    Raises:
        BrokerError: neither says where, or what they say is no address, or does not go together.
    """
    db = settings.db if settings.db is not None else (server.db if server else 0)
    sentinel = _sentinel(settings.sentinel)
    nodes = [] if sentinel else _nodes(settings.address or (server.addr if server else ""))
    if len(nodes) > 1 and not settings.cluster:
        raise BrokerError(f"the server gave {len(nodes)} addresses of Redis: is it a cluster? set redis.cluster: true")
    if settings.cluster and db:
        raise BrokerError(
            f"the server names the database {db}, but Redis Cluster has no other than 0: set redis.db: 0, "
            "or leave redis.cluster out"
        )
    host, port = nodes[0] if nodes else ("", 0)
    return RedisAddress(
        host=host,
        port=port,
        db=db,
        username=settings.username or (server.username if server else ""),
        password=settings.password or (server.password if server else None),
        tls=settings.tls if settings.tls is not None else bool(server and server.use_tls),
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        sentinel=sentinel,
        seeds=tuple(nodes) if settings.cluster else (),
    )


def _nodes(text: str) -> list[tuple[str, int]]:
    if not text:
        raise BrokerError("no Redis address: the server gave none and redis.address is not set")
    try:
        return parse_addresses(text, DEFAULT_PORT)
    except ValueError as error:
        raise BrokerError(f"the address of Redis is malformed: {error}") from None


def _sentinel(settings: SentinelSettings) -> SentinelAddress | None:
    if not settings.configured:
        return None
    if not settings.master_name or not settings.nodes:
        raise BrokerError("redis.sentinel needs master_name and nodes")
    try:
        nodes = tuple(parse_address(node, DEFAULT_SENTINEL_PORT) for node in settings.nodes)
    except ValueError as error:
        raise BrokerError(f"the address of a sentinel is malformed: {error}") from None
    return SentinelAddress(settings.master_name, nodes, settings.username, settings.password)


def _listed(nodes: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes)
