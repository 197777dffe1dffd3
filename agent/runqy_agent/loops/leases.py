"""Keeps the leases of this worker's tasks from ending, and notices when one has been lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.holding import LEASE_ENDED
from runqy_agent.loops.loop import PeriodicLoop

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.clock import Clock
    from runqy_agent.loops.processor import Processor

INTERVAL = 5.0
RENEW_BELOW = 20.0
"""A lease with fewer seconds left than this is renewed. The relation of these to ``LEASE_SECONDS``: even if one round
fails for want of a reply, the next one still finds the lease valid."""


class Leases(PeriodicLoop):
    """Extends leases well before they end. A task whose lease has ended is no longer ours, whatever Redis says."""

    name: ClassVar[str] = "leases"

    def __init__(self, broker: Broker, clock: Clock, processor: Processor, interval: float = INTERVAL) -> None:
        super().__init__(interval)
        self._broker = broker
        self._clock = clock
        self._processor = processor

    async def round(self) -> None:
        """Look at every task once."""
        by_queue: dict[str, list[TakenTask]] = {}
        ended: list[TakenTask] = []
        now, redis_now = self._clock.monotonic(), self._clock.now()

        def look_at(task: TakenTask) -> None:
            if task.lease_ends <= now:
                ended.append(task)
            # Redis' clock may have been set forward: what was long enough for the old one is short for everybody now.
            elif task.lease_ends < now + RENEW_BELOW or task.held_until < redis_now + RENEW_BELOW:
                by_queue.setdefault(task.queue, []).append(task)

        self._processor.each(list(self._processor.held), look_at)
        self._processor.lost(ended, LEASE_ENDED)
        await asyncio.gather(*(self._renew(queue, tasks) for queue, tasks in by_queue.items()))

    async def _renew(self, queue: str, tasks: list[TakenTask]) -> None:
        lost = await self._broker.extend(queue, tasks)
        self._processor.lost(lost, "somebody else has taken it over")
