"""``POST /worker/register``: persistent while the server is away, final when it refuses."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent._version import __version__
from runqy_agent.config.checks import header_safe
from runqy_agent.config.duration import format_duration
from runqy_agent.errors import ConfigError, RegistrationError
from runqy_agent.registration.answer import read_answer
from runqy_agent.registration.exchange import Exchange, TryAgainError, client_for
from runqy_agent.registration.names import parents_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import httpx

    from runqy_agent.config.settings import BootstrapSettings, ServerSettings
    from runqy_agent.registration.answer import Registration

_log = logging.getLogger("runqy_agent.registration")


async def register(
    server: ServerSettings,
    bootstrap: BootstrapSettings,
    queues: Sequence[str],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[Registration]:
    """Register this worker for each parent of the given queues, one call for each.

    Connection errors, timeouts and the answers 408, 425, 429 and 5xx are tried again, ``bootstrap.retries`` attempts
    in all for each parent; everything else is final at once.

    Args:
        server: where the server is, and the key.
        bootstrap: how often to try, and how long to wait between.
        queues: configured names, parents or full ones.
        sleep: waits for some seconds; tests replace it.
        transport: how requests travel; tests replace it.

    Returns:
        One registration for each parent, in the order the parents first appear in ``queues``.

    Raises:
        RegistrationError: the server refused, stayed unreachable, or answered something that cannot be understood.
        ConfigError: the key or the CA file cannot be used.
    """
    if server.api_key is None or not header_safe(server.api_key):
        raise ConfigError("server.api_key: required, in printable ASCII characters without spaces")
    async with client_for(server, transport) as client:
        exchange = Exchange(client, server)
        caller = _Caller(exchange, bootstrap, sleep)
        return [await caller.register(parent) for parent in parents_of(queues)]


@dataclass(frozen=True)
class _Caller:
    exchange: Exchange
    bootstrap: BootstrapSettings
    sleep: Callable[[float], Awaitable[object]]

    async def register(self, queue: str) -> Registration:
        url, attempts = self.exchange.url, self.bootstrap.retries
        attempt = 1
        while True:
            _log.info("registering for queue %s at %s, attempt %d of %d", queue, url, attempt, attempts)
            try:
                registration = read_answer(await self.exchange.post(_request(queue)))
            except TryAgainError as error:
                _log.warning("attempt %d of %d failed: %s", attempt, attempts, error)
                if attempt >= attempts:
                    text = f"registering for queue {queue} at {url} failed {attempts} times, at last: {error}"
                    raise RegistrationError(text, retryable=True) from None
                delay = max(self.bootstrap.retry_delay, error.retry_after)
            except RegistrationError as error:
                _log.warning("attempt %d of %d failed for good: %s", attempt, attempts, error)
                raise RegistrationError(f"registering for queue {queue} at {url} failed: {error}") from None
            else:
                _log.info("registered for queue %s, with %d sub-queues", queue, len(registration.sub_queues))
                return registration
            _log.info("trying again in %s", format_duration(delay))
            await self.sleep(delay)
            attempt += 1


def _request(queue: str) -> dict[str, str]:
    return {"queue": queue, "hostname": socket.gethostname(), "os": sys.platform, "version": __version__}
