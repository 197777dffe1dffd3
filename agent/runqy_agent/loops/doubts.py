"""Exchanges whose reply was lost: Redis may have carried them out, or may still do so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.exchange import Exchange
    from runqy_agent.broker.message import TakenTask

CHECKS = (0.0, 1.0, 5.0, 15.0)
"""Seconds after which to look what an exchange has taken. More than once: a server that was frozen may carry out, when
it goes on, what it had received before the connection was closed. Well below the length of a lease."""


@dataclass(slots=True)
class _Doubt:
    queue: str
    lease: float
    since: float
    checks: int = 0

    @property
    def due(self) -> float:
        return self.since + CHECKS[self.checks]


class Doubts:
    """Remembers such exchanges by their lease and finds the tasks they took."""

    def __init__(self) -> None:
        self._doubts: list[_Doubt] = []

    def add(self, request: Exchange, lease: float, now: float) -> None:
        """An exchange with this lease has got no reply. ``now`` is in monotonic seconds."""
        for settled in request.finished:
            settled.in_doubt = True
        if request.take:
            self._doubts.append(_Doubt(request.queue, lease, now))

    def next_check(self) -> float | None:
        """When to look again, in monotonic seconds; None if all is clear."""
        return min((doubt.due for doubt in self._doubts), default=None)

    async def resolve(self, broker: Broker, now: float) -> list[TakenTask]:
        """Look what is due to be looked at. Raises what Redis raises; then nothing is forgotten.

        Returns:
            Every task found, also those found before.
        """
        found: list[TakenTask] = []
        for doubt in [doubt for doubt in self._doubts if doubt.due <= now]:
            found += await broker.reclaim(doubt.queue, doubt.lease)
            doubt.checks += 1
            if doubt.checks == len(CHECKS):
                self._doubts.remove(doubt)
        return found
