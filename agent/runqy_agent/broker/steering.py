"""Connections that find out where to go each time they are opened, and that leave a server which takes no writes.

A fail-over makes a replica the master, and the old master a replica that refuses to write. Where connections lead is
then no longer what it was: the sentinels know better, a name or a virtual IP has moved.
"""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoPermissionError, ReadOnlyError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

CLIENT_NAME = "runqy-agent"
"""What a connection is called in CLIENT LIST, where the server permits to name it."""
_DRIVER = (
    ("driver_info",)
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else ("lib_name", "lib_version")
)
QUIET: dict[str, Any] = {"protocol": 2, **dict.fromkeys(_DRIVER)}
"""Options for connections that send nothing the worker could do without: old and filtered servers know neither HELLO
nor CLIENT SETINFO, and a refusal of the latter would stand in the server's log of refusals."""
LEAVE_SECONDS = 1.0
"""At most once in this time: every connection in use brings the news by itself."""


class Guide(Protocol):
    """Says where to connect to."""

    checks_role: bool
    """Whether what it says may be out of date, so that the server must be asked if it is a master."""

    async def locate(self) -> tuple[str, int]:
        """The host and the port. Raises a RedisError if it does not know."""


class Steering:
    """What the connections of one worker share.

    Attributes:
        guide: says where to connect to; without one it is always the same host and port.
        nameless: the server does not let connections be named.
    """

    def __init__(self, guide: Guide | None, leave: Callable[[bool], Awaitable[None]]) -> None:
        """Make one.

        Args:
            guide: see above.
            leave: closes connections: all of them (True), or those that would not notice a change by themselves.
        """
        self.guide = guide
        self.nameless = False
        self._leave = leave
        self._last: tuple[str, int] | None = None
        self._left_at = float("-inf")

    async def locate(self) -> tuple[str, int] | None:
        """Where to connect to now; None for where it always was."""
        if self.guide is None:
            return None
        found = await self.guide.locate()
        if self.guide.checks_role:
            await self.moved(found)
        return found

    async def moved(self, found: tuple[str, int]) -> None:
        """The master is there; if that is news, all connections lead to one of the past."""
        before, self._last = self._last, found
        if before not in (None, found):
            log.info("Redis: the master is %s:%d now", *found)
            await self._leave(True)  # noqa: FBT003

    async def demoted(self) -> None:
        """A server refused to write: the other connections lead there, too."""
        now = time.monotonic()
        if now - self._left_at > LEAVE_SECONDS:
            self._left_at = now
            await self._leave(False)  # noqa: FBT003


class DemotedError(RedisConnectionError):
    """The server is no longer the master. It has refused the command."""


def is_demotion(error: ResponseError) -> bool:
    """Whether a refusal tells that the server is no longer the master.

    Up to Redis 6.2 the refusal of a command within a script arrives as text in an error of the script. A command that
    blocks is ended with "UNBLOCKED force unblock from blocking operation, instance state changed".
    """
    if isinstance(error, (ReadOnlyError, MasterDownError)):
        return True
    text = str(error)
    return "-READONLY " in text or "-MASTERDOWN " in text or "instance state changed" in text


class SteeredConnection(Connection):
    """A connection that goes where its steering says."""

    def __init__(self, *, steering: Steering, **options: Any) -> None:
        super().__init__(redis_connect_func=_begin, **options)
        self._steering = steering

    async def connect(self) -> None:
        """Find out where to, and connect."""
        if self.is_connected:
            return
        found = await self._steering.locate()
        if found is not None:
            self.host, self.port = found
        await super().connect()  # type: ignore[no-untyped-call]

    async def begin(self) -> None:
        """Do what a new connection begins with, before redis-py subscribes again over it."""
        await self.on_connect()
        if not self._steering.nameless:
            await self._tell_name()
        if self._steering.guide is not None and self._steering.guide.checks_role:
            await self._insist_on_master()

    async def _tell_name(self) -> None:
        """It only helps people who look at the list of clients, so it may be refused."""
        try:
            await self.send_command("CLIENT", "SETNAME", CLIENT_NAME, check_health=False)
            await self.read_response()
        except ResponseError:
            self._steering.nameless = True
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def _insist_on_master(self) -> None:
        """A sentinel that has not heard of a fail-over sends us to what is a replica now."""
        try:
            await self.send_command("ROLE", check_health=False)
            role = await self.read_response()
        except NoPermissionError:
            return  # a replica will refuse the first write
        except BaseException:
            await self.disconnect(nowait=True)
            raise
        if role[0] not in (b"master", "master"):
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} is a replica, though the sentinels name it as master")

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Send commands.

        Raises:
            redis.exceptions.ConnectionError: also where uvloop says with a RuntimeError that the peer has reset the
                connection since it was last used, and where somebody else has closed it at this very moment.
        """
        if not self.is_connected:
            await self.connect()  # redis-py would go where it was before
        try:
            await super().send_packed_command(*args, **options)
        except (RuntimeError, AttributeError) as error:  # AttributeError: redis-py's writer is None by now
            raise RedisConnectionError(f"the connection to {self.host}:{self.port} was lost ({error})") from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply; that of a server which is no longer the master ends the connection.

        Raises:
            DemotedError: in that case. It is a ConnectionError, since another server would not refuse.
        """
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not is_demotion(error):
                raise
            await self.disconnect(nowait=True)
            await self._steering.demoted()
            raise DemotedError(f"{self.host}:{self.port} is no longer the master ({error})") from error


async def _begin(connection: SteeredConnection) -> None:
    await connection.begin()


class SteeredSSLConnection(SteeredConnection, SSLConnection):
    """The same, encrypted."""
