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
        self._subscribers: list[Client] = []
        self._sentinels: list[Sentinels] = []
        self._steering: dict[RedisAddress, Steering] = {}

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
        if address not in self._steering:
            self._steering[address] = Steering(self._guide(address), self._leave)
        return self._open_steered(address, self._steering[address], reply_timeout)

    def open_subscriber(self, address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
        """Make one with a ``pubsub`` that works. On a cluster it connects to any node, after trouble to another one."""
        if address.is_cluster:
            cluster = next((client for client in self._open if isinstance(client, ClusterClient)), None)
            return self._open_steered(address, Steering(AnyNode(address, cluster), self._leave), reply_timeout)
        client = self.open(address, reply_timeout=reply_timeout)
        self._subscribers.append(client)
        return client

    def _open_steered(self, address: RedisAddress, steering: Steering, reply_timeout: float) -> Client:
        client = _steered(address, steering, reply_timeout)
        self._open.append(client)
        return client

    def _guide(self, address: RedisAddress) -> Guide | None:
        if address.sentinel is None:
            return None
        sentinels = Sentinels(address, address.sentinel)
        self._sentinels.append(sentinels)
        return sentinels

    def watches_sentinels(self) -> bool:
        """Whether there are sentinels that tell of a new master."""
        return bool(self._sentinels)

    async def follow_master(self) -> None:
        """Be told by a sentinel when the master changes, and leave the old one at once.

        Raises:
            RedisError, OSError: the connection to that sentinel has failed; call it again.
        """
        for steering in self._steering.values():
            if isinstance(steering.guide, Sentinels):
                async for found in steering.guide.masters():
                    await steering.moved(found)

    async def _leave(self, everything: bool) -> None:  # noqa: FBT001
        """Drop connections that lead to a server of the past: all, or those that would not notice by themselves.

        Those in use are about to notice, when they write; those of subscribers never write.
        """
        for client in self._open:
            if isinstance(client, Redis):
                in_use = everything or client in self._subscribers
                with suppress(RedisError, OSError):
                    await client.connection_pool.disconnect(inuse_connections=in_use)

    async def close(self) -> None:
        """Close all. Trouble in doing so does not matter any more."""
        for client in (*self._open, *self._sentinels):
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await (client.end() if isinstance(client, ClusterClient) else client.aclose())
        self._open.clear()
        self._subscribers.clear()
        self._sentinels.clear()
        self._steering.clear()


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
