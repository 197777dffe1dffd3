"""Exchanges whose reply was lost: Redis may have carried them out, or may still do so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.loops.loop import TROUBLE

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.exchange import Exchange
    from runqy_agent.broker.message import TakenTask

CHECKS = (0.0, 1.0, 5.0, 15.0)
"""Seconds after which to look what an exchange has taken. More than once: a server that was frozen may carry out, when
it goes on, what it had received before the connection was closed. Well below the length of a lease."""

LOOK_SECONDS = 2.0
"""How long a look may take: all queues wait for it."""
AGAIN_SECONDS = 3.0
"""From the beginning of a look that failed to the next one."""


@dataclass(slots=True)
class _Doubt:
    queue: str
    lease: float
    since: float
    checks: int = 0
    not_before: float = 0.0

    @property
    def due(self) -> float:
        return max(self.since + CHECKS[self.checks], self.not_before)


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
        """Look what is due to be looked at. Where that fails it is due again a moment later; the exchange tells why.

        Returns:
            Every task found, also those found before.
        """
        due = [doubt for doubt in self._doubts if doubt.due <= now]
        looks = await asyncio.gather(*(self._look(broker, doubt, now) for doubt in due))
        return [task for found in looks for task in found]

    async def _look(self, broker: Broker, doubt: _Doubt, now: float) -> list[TakenTask]:
        try:
            found = await asyncio.wait_for(broker.reclaim(doubt.queue, doubt.lease), LOOK_SECONDS)
        except TROUBLE:
            doubt.not_before = now + AGAIN_SECONDS
            return []
        doubt.checks += 1
        if doubt.checks == len(CHECKS):
            self._doubts.remove(doubt)
        return found
