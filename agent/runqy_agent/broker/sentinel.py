"""Asking Redis Sentinel where the master is."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runqy_agent.broker.steering import QUIET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runqy_agent.broker.address import RedisAddress, SentinelAddress

log = logging.getLogger(__name__)

_SWITCHED = "+switch-master"
PING_SECONDS = 30.0
"""How long a sentinel may be silent before it is asked whether it is still there."""
ASK_SECONDS = 2.0
"""How long one sentinel may take to answer, and to accept a connection."""


class MasterUnknownError(RedisConnectionError):
    """No sentinel said where the master is; the text holds what each of them said instead."""


class Sentinels:
    """The sentinels of one master. The one that answered last is asked first the next time."""

    checks_role = True

    def __init__(self, address: RedisAddress, sentinel: SentinelAddress) -> None:
        """Prepare; nothing is contacted yet. TLS is used, or not, as for Redis itself."""
        self._master_name = sentinel.master_name
        password = sentinel.password.reveal() if sentinel.password else None
        self._clients = {
            f"{host}:{port}": Redis(
                host=host,
                port=port,
                username=sentinel.username or None,
                password=password,
                socket_timeout=ASK_SECONDS,
                socket_connect_timeout=ASK_SECONDS,
                retry=Retry(NoBackoff(), 0),
                ssl=address.tls,
                **QUIET,
                **address.tls_options(),
            )
            for host, port in sentinel.nodes
        }
        self._order = list(self._clients)

    async def locate(self) -> tuple[str, int]:
        """Host and port of the master.

        Raises:
            MasterUnknownError: none of the sentinels knows, or can be asked.
        """
        problems: list[str] = []
        last: Exception | None = None
        for name in list(self._order):
            found = await self._ask(name)
            if not isinstance(found, Exception):
                self._order.remove(name)
                self._order.insert(0, name)
                return found
            problems.append(f"{name}: {str(found) or type(found).__name__}")
            last = found
        raise MasterUnknownError(f"no sentinel says where the master is ({'; '.join(problems)})") from last

    async def _ask(self, name: str) -> tuple[str, int] | Exception:
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master_name)
        try:
            found = await self._clients[name].execute_command(*command)
        except (RedisError, OSError, RuntimeError) as error:  # the last is uvloop's, for a connection that was reset
            return error
        if not found:
            return MasterUnknownError(f'knows no master of the name "{self._master_name}"')
        host, port = found
        return host.decode(), int(port)

    async def masters(self) -> AsyncIterator[tuple[str, int]]:
        """Host and port of the master: as it is now, and whenever it changes.

        Raises:
            RedisError, OSError: the sentinel that was listened to is gone, or none can be asked.
        """
        await self.locate()
        name = self._order[0]
        async with self._clients[name].pubsub() as subscription:
            await subscription.subscribe(_SWITCHED)
            now = await self._ask(name)  # after the subscription, so that nothing happens in between
            if isinstance(now, Exception):
                raise now
            yield now
            while True:
                found = await subscription.get_message(timeout=PING_SECONDS)
                if found is None:
                    await subscription.ping()
                    found = await subscription.get_message(timeout=ASK_SECONDS)
                if found is None:
                    raise RedisTimeoutError(f"the sentinel {name} does not answer")
                if found["type"] == "message":
                    # "<name> <old host> <old port> <new host> <new port>"
                    master, _, _, host, port = found["data"].decode().split(" ")
                    if master == self._master_name:
                        self._order.remove(name)
                        self._order.insert(0, name)
                        yield host, int(port)

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        for client in self._clients.values():
            with suppress(RedisError, OSError):
                await client.aclose()
