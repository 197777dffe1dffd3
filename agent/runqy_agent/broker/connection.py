"""How to reach Redis, and what its errors mean."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from runqy_agent.config.address import parse_address
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from runqy_agent.config import RedisSettings, Secret
    from runqy_agent.registration import ServerRedis

log = logging.getLogger(__name__)

OLDEST_VERSION = (6, 2)
DEFAULT_PORT = 6379
REPLY_TIMEOUT = 10.0
"""Seconds to wait for a reply, beyond the time a blocking command asked for."""

Client = Redis


@dataclass(frozen=True)
class RedisAddress:
    """Everything needed to open a connection.

    Attributes:
        host, port: of the server.
        tls: whether to encrypt; the server's certificate and name are always verified then.
        ca_file: PEM file of the authorities to trust; empty for the system's.
        cert_file, key_file: PEM files of a client certificate; empty for none.
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

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.db}" + (" (TLS)" if self.tls else "")


def resolve(server: ServerRedis | None, settings: RedisSettings) -> RedisAddress:
    """Where Redis is: what the server said, with what the configuration overrides.

    Raises:
        BrokerError: neither says where, or what they say is no address.
    """
    text = settings.address or (server.addr if server else "")
    if not text:
        raise BrokerError("no Redis address: the server gave none and redis.address is not set")
    try:
        host, port = parse_address(text, DEFAULT_PORT)
    except ValueError as error:
        raise BrokerError(f"the address of Redis is malformed: {error}") from None
    use_tls = settings.tls if settings.tls is not None else bool(server and server.use_tls)
    db = settings.db if settings.db is not None else (server.db if server else 0)
    password = settings.password or (server.password if server else None)
    username = settings.username or (server.username if server else "")
    return RedisAddress(
        host,
        port,
        db,
        username,
        password,
        use_tls,
        settings.ca_file,
        settings.cert_file,
        settings.key_file,
    )


def open_client(
    address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT, name: str = "", single: bool = False
) -> Client:
    """Make a client. It connects when it is first used, and never retries by itself: the loops decide that.

    Args:
        address: where to.
        reply_timeout: seconds to wait for a reply.
        name: shown by ``CLIENT LIST``.
        single: use one connection for everything; only one command at a time may be under way then.
    """
    options: dict[str, Any] = {}
    if address.tls:
        options = {
            "ssl": True,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": address.ca_file or None,
            "ssl_certfile": address.cert_file or None,
            "ssl_keyfile": address.key_file or None,
        }
    return Redis(
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username or None,
        password=address.password.reveal() if address.password else None,
        socket_timeout=reply_timeout,
        socket_connect_timeout=5.0,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        client_name=name or None,
        single_connection_client=single,
        encoding_errors="surrogateescape",  # an id that is not UTF-8 must survive the way back
        **options,
    )


class Clients:
    """The clients of one worker, closed together."""

    def __init__(self) -> None:
        self._open: list[Client] = []

    def open(self, address: RedisAddress, **options: Any) -> Client:
        """Make one more; see ``open_client``."""
        client = open_client(address, name="runqy-agent", **options)
        self._open.append(client)
        return client

    async def close(self) -> None:
        """Close all. Trouble in doing so does not matter any more."""
        for client in self._open:
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await client.aclose()
        self._open.clear()


async def check_server(client: Client, address: RedisAddress) -> None:
    """Make sure that Redis answers, lets us in, and is new enough.

    Raises:
        BrokerError: with what Redis said and what to do.
    """
    try:
        await client.execute_command("PING")
    except AuthenticationError as error:
        raise BrokerError(f"Redis at {address} refuses the password or user name: {error}") from error
    except (RedisError, OSError) as error:
        raise BrokerError(f"Redis at {address} cannot be used: {describe(error)}") from error
    try:
        info = await client.info("server")
    except (NoPermissionError, ResponseError) as error:
        log.warning("Redis at %s does not tell its version (%s); it must be 6.2 or newer", address, error)
        await client.connection_pool.disconnect()  # imitations of Redis close a connection after an error
        return
    except (RedisError, OSError) as error:
        raise BrokerError(f"Redis at {address} cannot be used: {describe(error)}") from error
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_VERSION:
        raise BrokerError(f"Redis at {address} is version {version}; the agent needs Redis 6.2 or newer, or Valkey")


def describe(error: BaseException) -> str:
    """An error of Redis or of the network in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
