"""Tells Redis every five seconds that this worker is alive, and how it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.loop import PeriodicLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runqy_agent.broker.presence import Presence, WorkerState

INTERVAL = 5.0


class Heartbeat(PeriodicLoop):
    """Beats while the worker lives: it starts before the slow steps of the start and is the last to stop."""

    name: ClassVar[str] = "heartbeat"

    def __init__(
        self, presence: Presence, state: Callable[[], Awaitable[WorkerState]], interval: float = INTERVAL
    ) -> None:
        """Make one.

        Args:
            presence: where it is written.
            state: gives what is told.
            interval: seconds between beats.
        """
        super().__init__(interval)
        self._presence = presence
        self._state = state

    async def round(self) -> None:
        """One beat. Call it directly to make a change of state known at once."""
        await self._presence.beat(await self._state())
