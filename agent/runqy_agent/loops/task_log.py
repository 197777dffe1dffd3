"""Tells the log how tasks have ended: each while they are few, one line for many."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.loops.loop import Loop
from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds that a summary covers."""
LINES = 20
"""Tasks that get a line of their own within that time. Once there are more, none does until they are few again."""
MAX_ERROR = 300
"""Characters of an error; Redis has the rest."""

_WORDS = {"Success": "succeeded", "Failure": "failed", "Unstarted": "put back", "Revoked": "revoked"}


class TaskLog(Loop):
    """Counts the ends of tasks and logs them.

    Attributes:
        counts: how many have ended how since the start, by the name of the outcome's type.
    """

    name: ClassVar[str] = "task log"

    def __init__(self, interval: float = INTERVAL, lines: int = LINES) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._interval = interval
        self._lines = lines
        self._left = lines
        self._summed: Counter[str] = Counter()

    def ended(self, task: TakenTask, outcome: Outcome, now: float) -> None:
        """The run of a task has ended.

        Args:
            task: which.
            outcome: how.
            now: monotonic seconds.
        """
        kind = type(outcome).__name__
        self.counts[kind] += 1
        if self._left <= 0:
            self._summed[kind] += 1
            return
        self._left -= 1
        why = ""
        if isinstance(outcome, Failure):
            why = f": {outcome.error.strip().partition(chr(10))[0][:MAX_ERROR]}"
        ran = now - task.began_at if task.began_at else 0.0
        log.info(
            *("task %s %s after %.3f s%s", task.id, _WORDS[kind], ran, why),
            extra={"queue": task.queue, "task": task.id},
        )

    async def run(self) -> None:
        """Sum up at regular intervals."""
        try:
            while True:
                await asyncio.sleep(self._interval)
                self._sum_up()
        finally:
            self._sum_up()

    def _sum_up(self) -> None:
        summed, self._summed = self._summed, Counter()
        self._left = 0 if summed.total() > self._lines else self._lines
        if summed:
            parts = ", ".join(f"{number} {_WORDS[kind]}" for kind, number in summed.most_common())
            log.info("more tasks have ended in the last %g s: %s", self._interval, parts)
