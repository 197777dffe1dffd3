"""Which of the tasks that it was given a process is at: whose time runs, and who is to blame."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.broker.message import TakenTask


class Turns:
    """The turns of the tasks of one process, which says nothing of when it begins one.

    As long as it answers in the order in which it was given them it is taken to run one after another: a task begins
    when the one before it is answered. Once it has answered out of order it is known to run them side by side: each
    began when it was written.

    Attributes:
        side_by_side: whether it has answered out of order.
    """

    def __init__(self) -> None:
        self.side_by_side = False
        self._line: deque[TakenTask] = deque()
        """Written and not answered, in order; not kept once they run side by side."""

    def written(self, task: TakenTask, now: float) -> None:
        """The process was given a task. ``now`` is in monotonic seconds."""
        task.written_at = now
        if self.side_by_side:
            task.begin(now)
            return
        self._line.append(task)
        if len(self._line) == 1:
            task.begin(now)

    def answered(self, task: TakenTask, now: float) -> None:
        """The process is through with a task that was written. ``now`` is in monotonic seconds."""
        if self.side_by_side:
            return
        if self._line[0] is task:
            self._line.popleft()
            if self._line:
                self._line[0].begin(now)
            return
        self.side_by_side = True
        for each in self._line:
            if not each.began_at:
                each.begin(each.written_at)
        self._line.clear()

    def is_at(self, task: TakenTask) -> bool:
        """Whether the process is at a task that was written and is not answered."""
        return self.side_by_side or self._line[0] is task

    def guilty(self, tasks: Iterable[TakenTask], abandoned: Iterable[TakenTask]) -> list[TakenTask]:
        """The task that a process was at when it crashed: the oldest, unless that is over already.

        Args:
            tasks: those in flight, oldest first.
            abandoned: those that were written, and that nobody waits for any more.

        Returns:
            One task, or none.
        """
        oldest = next((task for task in tasks if task.written_at), None)
        if oldest is None:
            return []
        if self.side_by_side:
            return [] if any(task.written_at <= oldest.written_at for task in abandoned) else [oldest]
        return [oldest] if self._line[0] is oldest else []
