"""Keeps a worker's clock at that of Redis, and says so when the host's own is another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import NoPermissionError, ResponseError

from runqy_agent.broker import keys
from runqy_agent.broker.check import ACL_HINT
from runqy_agent.clock import APART

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)

SAMPLES = 3
"""At the start: the first reply may have waited for a connection."""
_REFUSALS = ("unknown command", "unknown redis command", "can't run this command", "acl failure in script")
"""How a server tells that it has no ``TIME``, or not for this user: Redis 6.2 to 8, Valkey and others."""


class RedisTime:
    """What is known of Redis' clock.

    Attributes:
        known: whether Redis tells its time; if it does not, the host's clock is taken for it.
    """

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self.known = False
        self._broker = broker
        self._clock = clock
        self._refused = False
        self._told = 0.0

    @property
    def ahead(self) -> float | None:
        """How many seconds the host's clock is ahead of Redis' (less than 0: behind); None if that is not known."""
        return round(self._clock.ahead(), 3) if self.known else None

    async def learn(self, samples: int = 1) -> None:
        """Ask for the time, and warn when it is far from the host's, or was set. Raises what Redis raises."""
        for _ in range(samples):
            if not await self._ask():
                return
        ahead = self._clock.ahead()
        if abs(ahead - self._told) > APART:
            self._told = ahead
            if abs(ahead) > APART:
                side = "ahead of" if ahead > 0 else "behind"
                log.warning(
                    "the clock of this host is %.1f s %s that of Redis; leases and due times follow Redis' clock, so "
                    "that no task is harmed, but logs do not agree: set both by NTP",
                    *(abs(ahead), side),
                )
            else:
                log.info("the clock of this host and that of Redis agree again")

    async def _ask(self) -> bool:
        sent = self._clock.monotonic()
        try:
            seconds, microseconds = await self._broker.run_script("time", [keys.WORKERS], [])
        except ResponseError as error:
            if not _is_refusal(error):
                raise
            self._do_without(error)
            return False
        set_by = self._clock.learn(sent, self._clock.monotonic(), int(seconds) + int(microseconds) / 1e6)
        self.known = True
        if abs(set_by) > APART:
            log.warning(
                "the clock of Redis was set %.1f s %s, or another server answers now; nothing is recovered until all "
                "workers have renewed their leases",
                *(abs(set_by), "forward" if set_by > 0 else "back"),
            )
        return True

    def _do_without(self, error: ResponseError) -> None:
        if not self._refused:
            log.warning(
                "Redis does not tell its time (%s); leases and due times follow the clock of this host, which must "
                "agree with those of all others then; where a permission is missing %s",
                *(error, ACL_HINT),
            )
        self._refused = True
        if not self.known:  # else it was asked before, and goes on as it did
            now = self._clock.monotonic()
            self._clock.learn(now, now, self._clock.wall())


def _is_refusal(error: ResponseError) -> bool:
    text = str(error).lower()
    return isinstance(error, NoPermissionError) or any(refusal in text for refusal in _REFUSALS)
