"""Being told by Redis that a key has changed, on one connection for any number of keys.

With ``CLIENT TRACKING`` the server remembers which keys a connection has read, existing or not, and tells it once when
one of them changes, however that happens. Reading it again renews that. It changes nothing, needs no configuration of
the server, and costs it one entry for each key. What it tells arrives among the replies, which takes RESP3: that is
asked for on these connections alone, after the usual beginning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, cast

import hiredis
from redis._parsers import _AsyncHiredisParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

    from runqy_agent.broker.cluster import ClusterClient
    from runqy_agent.broker.connection import Client

TROUBLE = (RedisError, OSError, asyncio.TimeoutError, RuntimeError)
"""What goes wrong with a connection; the last is uvloop's, for one that was reset."""
REPLY_SECONDS = 10.0
PIECE = 250
"""Keys in one command, so that the server is not busy for long."""


class UntrackableError(RedisError):
    """The server tells of no changes; the text says which command it refuses."""


class Tracker(Protocol):
    """Reads which keys exist, and tells of their changes from then on."""

    async def existing(self, names: Sequence[str]) -> list[bool]:
        """For each key whether it exists."""

    async def count(self, names: Sequence[str]) -> int:
        """How many of the keys exist, at less cost."""

    async def close(self) -> None:
        """End it."""


class PushParser(_AsyncHiredisParser):
    """Treats what the server tells without being asked as one more reply: redis-py would read over it."""

    def on_connect(self, connection: Any) -> None:
        """Begin to read."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._hiredis_PushNotificationType = None  # unknown to redis-py before 6.2, which reads over nothing


class KeyTracker:
    """The tracker for one server. It connects when it is first used, and again after trouble."""

    def __init__(self, client: Client, on_change: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            client: one that nobody else uses, with ``PushParser``.
            on_change: called with a key that has been read and has changed since; with "" if that may be true of all.
        """
        self._pool = client.connection_pool
        self._on_change = on_change
        self._connection: AbstractConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._awaited: deque[asyncio.Future[int]] = deque()
        self._one_at_a_time = asyncio.Lock()

    async def existing(self, names: Sequence[str]) -> list[bool]:
        """For each key whether it exists.

        Raises:
            UntrackableError: the server does not tell of changes.
            RedisError, OSError: as usual.
        """
        return [count > 0 for count in await self._ask([(name,) for name in names])]

    async def count(self, names: Sequence[str]) -> int:
        """How many of the keys exist. Raises what ``existing`` does."""
        return sum(await self._ask([tuple(names[at : at + PIECE]) for at in range(0, len(names), PIECE)]))

    async def _ask(self, groups: Sequence[tuple[str, ...]]) -> list[int]:
        if not groups:
            return []
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time:
            connection = await self._connected()
            replies: list[asyncio.Future[int]] = [loop.create_future() for _ in groups]
            self._awaited.extend(replies)
            try:
                await connection.send_packed_command(
                    [_pack(("EXISTS", *group)) for group in groups], check_health=False
                )
                _, late = await asyncio.wait(replies, timeout=REPLY_SECONDS)
                if late:
                    raise RedisTimeoutError(f"no answer for {REPLY_SECONDS:g} s")  # noqa: TRY301
                return [reply.result() for reply in replies]
            except BaseException as error:
                await self._drop(error)
                raise

    async def _connected(self) -> AbstractConnection:
        if self._connection is not None and self._connection.is_connected:
            return self._connection
        await self._drop(None)
        connection = cast("AbstractConnection", await self._pool.get_connection())
        self._connection = connection
        try:
            for command in (("HELLO", "3"), ("CLIENT", "TRACKING", "ON")):
                await connection.send_command(*command, check_health=False)
                try:
                    await connection.read_response()
                except ResponseError as error:
                    raise UntrackableError(f"{' '.join(command)} ({error})") from error
        except BaseException:
            await self._drop(None)
            raise
        self._reading = asyncio.create_task(self._read(connection), name="tracking")
        return connection

    async def _read(self, connection: AbstractConnection) -> None:
        error: BaseException = RedisConnectionError("the connection was closed")
        try:
            while True:
                self._take(await self._next(connection))
        except TROUBLE as trouble:
            error = trouble
        finally:
            if self._connection is connection:
                self._fail(error)
                await connection.disconnect(nowait=True)
                self._on_change("")

    async def _next(self, connection: AbstractConnection) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return error

    def _take(self, reply: Any) -> None:
        if isinstance(reply, list):  # RESP3's pushes are lists; the replies to EXISTS are none
            for name in reply[1] or [b""]:
                self._on_change(name.decode("utf-8", "surrogateescape"))
        elif self._awaited:
            future = self._awaited.popleft()
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def _fail(self, error: BaseException) -> None:
        while self._awaited:
            future = self._awaited.popleft()
            if not future.done():
                future.set_exception(error if isinstance(error, Exception) else RedisConnectionError(str(error)))
                future.exception()  # whoever waits for several is told by the first

    async def _drop(self, error: BaseException | None) -> None:
        connection, self._connection = self._connection, None
        reading, self._reading = self._reading, None
        self._fail(error or RedisConnectionError("the connection was closed"))
        if reading is not None:
            reading.cancel()
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def close(self) -> None:
        """End it."""
        await self._drop(None)


class ClusterTracker:
    """The tracker for a cluster: one connection to each node that has keys."""

    def __init__(
        self,
        cluster: ClusterClient,
        open_node: Callable[[tuple[str, int]], Client],
        on_change: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            cluster: knows which node has which key.
            open_node: makes a client of one node; see ``KeyTracker``.
            on_change: see ``KeyTracker``.
        """
        self._cluster = cluster
        self._open_node = open_node
        self._on_change = on_change
        self._nodes: dict[tuple[str, int], KeyTracker] = {}

    async def existing(self, names: Sequence[str]) -> list[bool]:
        """For each key whether it exists; also True if its node cannot be asked: whoever uses the key learns why.

        Raises:
            UntrackableError: the servers do not tell of changes.
            RedisError, OSError: no node can be asked.
        """
        by_node: dict[tuple[str, int], list[str]] = {}
        for name in names:
            by_node.setdefault(await self._cluster.node_of(name), []).append(name)
        asked = await asyncio.gather(*(self._ask(node, of) for node, of in by_node.items()), return_exceptions=True)
        found: dict[str, bool] = {}
        troubles = []
        for of, reply in zip(by_node.values(), asked, strict=True):
            if isinstance(reply, BaseException):
                troubles.append(reply)
                if not isinstance(reply, TROUBLE) or isinstance(reply, UntrackableError):
                    raise reply
                self._cluster.map_is_old()
            found |= dict.fromkeys(of, True) if isinstance(reply, BaseException) else dict(zip(of, reply, strict=True))
        if troubles and len(troubles) == len(asked):
            raise troubles[0]
        return [found[name] for name in names]

    async def count(self, names: Sequence[str]) -> int:
        """How many of the keys exist. Raises what ``existing`` does."""
        return sum(await self.existing(names))

    async def _ask(self, node: tuple[str, int], names: Sequence[str]) -> list[bool]:
        if node not in self._nodes:
            self._nodes[node] = KeyTracker(self._open_node(node), self._on_change)
        return await self._nodes[node].existing(names)

    async def close(self) -> None:
        """End it."""
        for tracker in self._nodes.values():
            with suppress(*TROUBLE):
                await tracker.close()


def _pack(command: tuple[str, ...]) -> bytes:
    pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command  # its own types allow one argument only
    return pack(tuple(word.encode("utf-8", "surrogateescape") for word in command))
