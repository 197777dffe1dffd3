"""One connection for the hot path: commands packed in C, written at once, replies read in order.

The client of redis-py packs every argument in Python and takes a connection from its pool for every command, which
costs more than everything else the worker does for a task. Here its connection is used without its client.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from runqy_agent.broker.exchange import NotDoneError
from runqy_agent.broker.steering import DemotedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

    from runqy_agent.broker.connection import Client


IDLE_SECONDS = 0.5
"""After this time without use a connection is looked at before it is used: the server may have closed it."""


class Channel:
    """A connection of its own, opened when first used and again after an error.

    Attributes:
        busy: whether commands are under way; only one caller at a time may use it.
    """

    def __init__(self, client: Client) -> None:
        """Use the connection settings of a client that nobody else uses."""
        self._pool = client.connection_pool
        self._connection: AbstractConnection | None = None
        self._used_at = 0.0
        self.busy = False

    async def call(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one write and read all replies.

        Returns:
            The replies; where Redis refuses a command, its ResponseError takes the reply's place.

        Raises:
            NotDoneError: none of the commands was carried out.
            RedisError, OSError: the connection failed; whether the commands were carried out is not known.
        """
        self.busy = True
        replies: list[Any] = []
        try:
            connection = await self._connected()
            await connection.send_packed_command([_pack(command) for command in commands], check_health=False)
            for _ in commands:
                replies.append(await self._reply(connection))  # noqa: PERF401  # how many came matters below
        except (BusyLoadingError, DemotedError) as error:
            await self._drop()
            if not replies:
                raise NotDoneError(str(error)) from error
            raise
        except BaseException:
            await self._drop()
            raise
        finally:
            self.busy = False
        return replies

    async def _connected(self) -> AbstractConnection:
        connection, now = self._connection, time.monotonic()
        idle, self._used_at = now - self._used_at, now
        if connection is not None and connection.is_connected and idle < IDLE_SECONDS:
            return connection
        try:
            if connection is None or not connection.is_connected:
                await self._drop()
                connection = self._connection = cast("AbstractConnection", await self._pool.get_connection())
            else:
                await self._pool.ensure_connection(connection)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise NotDoneError(str(error) or type(error).__name__) from error
        return connection

    async def _reply(self, connection: AbstractConnection) -> Any:
        try:
            return await connection.read_response()
        except ResponseError as error:
            return error

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


def _pack(command: tuple[Any, ...]) -> bytes:
    pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command  # its own types allow one argument only
    try:
        return pack(command)
    except UnicodeEncodeError:
        # An id that is not UTF-8, kept as text with surrogate escapes.
        return pack(tuple(arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in command))
