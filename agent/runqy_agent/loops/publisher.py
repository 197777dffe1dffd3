"""Tells Redis what the supervised processes print: about a second after it, and nothing while they are silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.heartbeat import INTERVAL
from runqy_agent.loops.loop import PeriodicLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.broker.presence import Presence

KEPT = 500
"""Lines in Redis."""
SOON = 1.0
"""Seconds between a line and its writing; all that come meanwhile are written with it."""


class Publisher(PeriodicLoop):
    """Writes new lines, and keeps those that are there from expiring, as often as the worker's heart beats."""

    name: ClassVar[str] = "output"

    def __init__(
        self, presence: Presence, lines: Callable[[int], list[tuple[int, str]]], interval: float = INTERVAL
    ) -> None:
        """Make one.

        Args:
            presence: where they are written.
            lines: gives number and JSON of the lines after a number, a bounded amount of the newest.
            interval: seconds between two renewals.
        """
        super().__init__(interval)
        self._presence = presence
        self._lines = lines
        self._written = 0
        self._sure = False
        self._timer: asyncio.TimerHandle | None = None

    def has_line(self) -> None:
        """There is something to write soon. It costs next to nothing when it is called for every line of a flood."""
        if self._timer is None and not self._stopping:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._is_soon)

    def _is_soon(self) -> None:
        self._timer = None
        self.nudge()

    async def stop(self) -> None:
        """End."""
        await super().stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def round(self) -> None:
        """Write what is new."""
        # What Redis has not confirmed may be there all the same: then all lines are written anew, in place of those.
        sure, self._sure = self._sure, False
        lines = self._lines(self._written if sure else 0)
        if not lines and not sure:
            return
        there = await self._presence.write_output([line for _, line in lines], keep=KEPT if sure else len(lines))
        if lines:
            self._written = lines[-1][0]
        self._sure = there or not sure
