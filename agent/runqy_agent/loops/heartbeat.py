"""Tells Redis every five seconds that this worker is alive, and how it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.loop import PeriodicLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runqy_agent.broker.presence import Presence, WorkerState

INTERVAL = 5.0


class Heartbeat(PeriodicLoop):
    """Beats while the worker lives: it starts before the slow steps of the start and is the last to stop.

    Attributes:
        last_beat: when Redis took the last one, monotonic seconds; None before the first.
    """

    name: ClassVar[str] = "heartbeat"

    def __init__(
        self,
        presence: Presence,
        state: Callable[[str], WorkerState],
        metrics: Callable[[], Awaitable[str]],
        interval: float = INTERVAL,
    ) -> None:
        """Make one.

        Args:
            presence: where it is written.
            state: gives what is told, from the load of the host.
            metrics: reads that, as JSON.
            interval: seconds between beats.
        """
        super().__init__(interval)
        self._presence = presence
        self._state = state
        self._metrics = metrics
        self.last_beat: float | None = None

    async def round(self) -> None:
        """One beat. Call it directly to make a change of state known at once."""
        await self._presence.time.learn()
        await self._presence.beat(self._state(await self._metrics()))
        self.last_beat = self._presence.clock.monotonic()
