"""How a worker makes itself known in Redis, from before the slow steps of its start to after its last task."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runqy_agent.broker.connection import describe
from runqy_agent.loops.heartbeat import Heartbeat
from runqy_agent.loops.loop import TROUBLE
from runqy_agent.loops.publisher import Publisher
from runqy_agent.reporting.metrics import HostMetrics
from runqy_agent.reporting.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.broker.presence import Presence, WorkerState
    from runqy_agent.clock import Clock
    from runqy_agent.loops.loop import Loop

log = logging.getLogger(__name__)

DEREGISTER_SECONDS = 2.0


class Announcer:
    """The records of this worker in Redis, kept fresh and removed in the end.

    Attributes:
        heartbeat: keeps them fresh; None before ``start``.
        output: what the supervised processes print; it is told there too.
    """

    def __init__(self, clock: Clock) -> None:
        self.heartbeat: Heartbeat | None = None
        self.output = Output(clock)
        self._publisher: Publisher | None = None
        self._metrics = HostMetrics(clock)
        self._presence: Presence | None = None

    def start(self, presence: Presence, state: Callable[[str], WorkerState]) -> None:
        """Begin.

        Args:
            presence: where the records are written.
            state: gives what is told, from the load of the host.
        """
        self._presence = presence
        self.heartbeat = Heartbeat(presence, state, self._metrics.read)
        self._publisher = Publisher(presence, self.output.to_write)
        self.output.on_line = self._publisher.has_line
        self.heartbeat.start()
        self._publisher.start()

    @property
    def loops(self) -> list[Loop]:
        """What keeps the records fresh."""
        return [loop for loop in (self.heartbeat, self._publisher) if loop is not None]

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What must not end before ``stop``."""
        return [loop.task for loop in self.loops if loop.task is not None]

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the host's clock is ahead of Redis'; None if that is not known."""
        return self._presence.time.ahead if self._presence else None

    def nudge(self) -> None:
        """Something has changed: tell it now."""
        if self.heartbeat is not None:
            self.heartbeat.nudge()

    async def stop(self) -> None:
        """Stop beating and remove the records."""
        if self._presence is None or self.heartbeat is None or self._publisher is None:
            return
        await asyncio.gather(self.heartbeat.stop(), self._publisher.stop())
        try:
            await asyncio.wait_for(self._presence.clear(), DEREGISTER_SECONDS)
        except TROUBLE as error:
            log.warning("this worker's records in Redis are left to expire: %s", describe(error))
        self._presence = None
