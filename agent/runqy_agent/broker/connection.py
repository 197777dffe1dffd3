"""Clients of Redis: of one server, of the master that sentinels watch, or of a cluster."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from runqy_agent.broker.address import RedisAddress, resolve
from runqy_agent.broker.cluster import AnyNode, ClusterClient
from runqy_agent.broker.sentinel import Sentinels
from runqy_agent.broker.steering import Guide, SteeredConnection, SteeredSSLConnection, Steering

__all__ = ["REPLY_TIMEOUT", "Client", "Clients", "RedisAddress", "describe", "open_client", "resolve"]

REPLY_TIMEOUT = 10.0
"""Seconds to wait for a reply, beyond the time a blocking command asked for."""
CONNECT_SECONDS = 5.0
MAX_CONNECTIONS = 1000
"""For one client and server. One queue waits on one connection; redis-py's own limit is 100 since version 8."""

Client = Redis
"""What the broker works with. On a cluster it is a ``ClusterClient``, with the same methods where they are used."""


class Clients:
    """The clients of one worker, closed together."""

    def __init__(self) -> None:
        self._open: list[Client | ClusterClient] = []
        self._sentinels: dict[RedisAddress, Sentinels] = {}

    def open(self, address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
        """Make one more. It connects when it is first used, and never retries by itself: the loops decide that.

        Args:
            address: where to.
            reply_timeout: seconds to wait for a reply.
        """
        if address.is_cluster:
            cluster = ClusterClient(address, reply_timeout=reply_timeout, name="runqy-agent")
            self._open.append(cluster)
            return cast("Client", cluster)
        guide = self._sentinels_of(address) if address.sentinel else None
        return self._open_steered(address, guide, reply_timeout)

    def open_subscriber(self, address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
        """Make one with a ``pubsub`` that works. On a cluster it connects to any node, after trouble to another one."""
        if not address.is_cluster:
            return self.open(address, reply_timeout=reply_timeout)
        cluster = next((client for client in self._open if isinstance(client, ClusterClient)), None)
        return self._open_steered(address, AnyNode(address, cluster), reply_timeout)

    def _open_steered(self, address: RedisAddress, guide: Guide | None, reply_timeout: float) -> Client:
        client = _steered(address, Steering(guide, self._drop_idle), reply_timeout)
        self._open.append(client)
        return client

    def _sentinels_of(self, address: RedisAddress) -> Sentinels | None:
        if address.sentinel is None:
            return None
        if address not in self._sentinels:
            self._sentinels[address] = Sentinels(address, address.sentinel)
        return self._sentinels[address]

    async def _drop_idle(self) -> None:
        for client in self._open:
            if isinstance(client, Redis):
                with suppress(RedisError, OSError):
                    await client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close all. Trouble in doing so does not matter any more."""
        for client in (*self._open, *self._sentinels.values()):
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await client.aclose()
        self._open.clear()
        self._sentinels.clear()


def open_client(address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
    """One client by itself; see ``Clients.open``."""
    return Clients().open(address, reply_timeout=reply_timeout)


def _steered(address: RedisAddress, steering: Steering, reply_timeout: float) -> Client:
    client = Redis(
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username or None,
        password=address.password.reveal() if address.password else None,
        socket_timeout=reply_timeout,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CONNECTIONS,
        client_name="runqy-agent",
        encoding_errors="surrogateescape",  # an id that is not UTF-8 must survive the way back
        ssl=address.tls,
        **address.tls_options(),
    )
    pool = client.connection_pool
    pool.connection_class = SteeredSSLConnection if address.tls else SteeredConnection
    pool.connection_kwargs["steering"] = steering
    return client


def describe(error: BaseException) -> str:
    """An error of Redis or of the network in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
