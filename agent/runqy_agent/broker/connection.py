"""Clients of Redis: of one server, of the master that sentinels watch, or of a cluster."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from runqy_agent.broker.address import RedisAddress, resolve
from runqy_agent.broker.cluster import AnyNode, ClusterClient
from runqy_agent.broker.sentinel import Sentinels
from runqy_agent.broker.steering import QUIET, Guide, SteeredConnection, SteeredSSLConnection, Steering
from runqy_agent.broker.tracking import ClusterTracker, KeyTracker, PushParser, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import Connection

__all__ = ["REPLY_TIMEOUT", "Client", "Clients", "RedisAddress", "describe", "open_client", "resolve"]

REPLY_TIMEOUT = 10.0
"""Seconds to wait for a reply, beyond the time a blocking command asked for."""
CONNECT_SECONDS = 5.0
FEW_CONNECTIONS = 2
"""For what the loops do beside the hot path: one of them may wait for a slow reply while another goes on."""

Client = Redis
"""What the broker works with. On a cluster it is a ``ClusterClient``, with the same methods where they are used."""


class Clients:
    """The clients of one worker, closed together."""

    def __init__(self) -> None:
        self._open: list[Client | ClusterClient] = []
        self._readers: list[Client] = []
        self._sentinels: list[Sentinels] = []
        self._steering: dict[RedisAddress, Steering] = {}

    def open(
        self,
        address: RedisAddress,
        *,
        reply_timeout: float = REPLY_TIMEOUT,
        connections: int = FEW_CONNECTIONS,
        **options: Any,
    ) -> Client:
        """Make one more. It connects when it is first used, and never retries by itself: the loops decide that.

        Args:
            address: where to.
            reply_timeout: seconds to wait for a reply.
            connections: how many it opens at most; commands wait for one of them. Without meaning on a cluster.
            options: more for redis-py's connections. Without meaning on a cluster.
        """
        if address.is_cluster:
            cluster = ClusterClient(address, reply_timeout=reply_timeout)
            self._open.append(cluster)
            return cast("Client", cluster)
        if address not in self._steering:
            self._steering[address] = Steering(self._guide(address), self._leave)
        return self._open_steered(address, self._steering[address], reply_timeout, connections, **options)

    def open_subscriber(self, address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
        """Make one with a ``pubsub`` that works. On a cluster it connects to any node, after trouble to another one."""
        if address.is_cluster:
            cluster = next((client for client in self._open if isinstance(client, ClusterClient)), None)
            steering = Steering(AnyNode(address, cluster), self._leave)
            return self._open_steered(address, steering, reply_timeout, FEW_CONNECTIONS)
        client = self.open(address, reply_timeout=reply_timeout)  # the second connection is for trying it
        self._readers.append(client)
        return client

    def open_tracker(self, address: RedisAddress, on_change: Callable[[str], None]) -> Tracker:
        """Make what tells of changes of keys; see ``tracking``."""

        def open_node(node: tuple[str, int]) -> Client:
            host, port = node
            own = replace(address, host=host, port=port, seeds=())
            client = self.open(own, connections=1, parser_class=PushParser)
            self._readers.append(client)
            return client

        if not address.is_cluster:
            return KeyTracker(open_node((address.host, address.port)), on_change)
        cluster = next(client for client in self._open if isinstance(client, ClusterClient))
        return ClusterTracker(cluster, open_node, on_change)

    def _open_steered(
        self, address: RedisAddress, steering: Steering, reply_timeout: float, connections: int, **options: Any
    ) -> Client:
        pool = FewConnections(
            connections,
            connection_class=SteeredSSLConnection if address.tls else SteeredConnection,
            steering=steering,
            host=address.host,
            port=address.port,
            db=address.db,
            username=address.username or None,
            password=address.password.reveal() if address.password else None,
            socket_timeout=reply_timeout,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            encoding_errors="surrogateescape",  # an id that is not UTF-8 must survive the way back
            **QUIET,
            **address.tls_options(),
            **options,
        )
        client = Redis.from_pool(pool)
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

        Those in use are about to notice, when they write; some never write.
        """
        for client in self._open:
            if isinstance(client, Redis):
                in_use = everything or client in self._readers
                with suppress(RedisError, OSError):
                    await client.connection_pool.disconnect(inuse_connections=in_use)

    async def close(self) -> None:
        """Close all. Trouble in doing so does not matter any more."""
        for client in (*self._open, *self._sentinels):
            with suppress(RedisError, OSError, asyncio.TimeoutError):
                await (client.end() if isinstance(client, ClusterClient) else client.aclose())
        self._open.clear()
        self._readers.clear()
        self._sentinels.clear()
        self._steering.clear()


def open_client(address: RedisAddress, *, reply_timeout: float = REPLY_TIMEOUT) -> Client:
    """One client by itself; see ``Clients.open``."""
    return Clients().open(address, reply_timeout=reply_timeout)


class FewConnections(ConnectionPool):
    """A pool whose users wait for each other when all its connections are in use."""

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self._free = asyncio.Semaphore(size)

    async def get_connection(self, *args: Any, **options: Any) -> Connection:
        """Take one, or wait for one; ``release`` must follow.

        Raises:
            redis.exceptions.ConnectionError: none became free within the time that a reply may take.
        """
        try:
            await asyncio.wait_for(self._free.acquire(), REPLY_TIMEOUT)
        except asyncio.TimeoutError:
            raise RedisConnectionError(f"all connections waited for replies for {REPLY_TIMEOUT:g} s") from None
        try:
            return cast("Connection", await super().get_connection(*args, **options))  # type: ignore[no-untyped-call]
        except BaseException:
            self._free.release()
            raise

    async def release(self, connection: Any) -> None:
        """Give one back."""
        try:
            await super().release(connection)
        finally:
            self._free.release()


def describe(error: BaseException) -> str:
    """An error of Redis or of the network in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
