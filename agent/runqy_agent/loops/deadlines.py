"""Ends tasks that run longer than they may."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.loop import PeriodicLoop
from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.clock import Clock
    from runqy_agent.loops.processor import Processor

INTERVAL = 0.25


class Deadlines(PeriodicLoop):
    """Looks through the running tasks four times a second; there are never more of them than the concurrency."""

    name: ClassVar[str] = "deadlines"

    def __init__(self, clock: Clock, processor: Processor, interval: float = INTERVAL) -> None:
        super().__init__(interval)
        self._clock = clock
        self._processor = processor

    async def round(self) -> None:
        """Look at every task once."""
        now = self._clock.monotonic()
        over = [task for task in self._processor.running if task.deadline <= now]

        def end(task: TakenTask) -> None:
            self._processor.cut_off(task, Failure(task.deadline_error(now)))

        self._processor.each(over, end)
