"""The tasks this worker holds, from the moment they are taken until their outcome is written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from runqy_agent.loops.loop import Loop
from runqy_agent.loops.task_log import TaskLog
from runqy_agent.outcome import Outcome, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.broker.settle import Settled
    from runqy_agent.clock import Clock
    from runqy_agent.loops.route import Route

log = logging.getLogger(__name__)

LEASE_ENDED = "its lease could not be renewed in time"


class Holding(Loop):
    """Knows what is held and what is decided. Whatever is done for a task, no trouble with it is more than its own.

    Attributes:
        task_log: counts and logs how tasks have ended. It runs beside this.
        counts: how many of each outcome there were since the start, ``Lost`` among them.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._held: dict[TakenTask, Route] = {}
        self._decided: set[TakenTask] = set()
        self.task_log = TaskLog()
        self.counts = self.task_log.counts

    @property
    def held(self) -> Collection[TakenTask]:
        """The tasks this worker holds."""
        return self._held

    @property
    def running(self) -> list[TakenTask]:
        """The tasks whose run has not ended yet."""
        return [task for task in self._held if task not in self._decided]

    def wake(self) -> None:
        """There may be something to do."""
        raise NotImplementedError

    def finished(self, task: TakenTask, outcome: Outcome) -> None:
        """The run of a task has ended. ``wake`` must follow; so a batch of answers makes one exchange."""
        route = self._held.get(task)
        if route is None or task in self._decided:
            return
        self._decided.add(task)
        settled, outcome = route.policy.settle_safely(task, outcome, self._clock.now_ns())
        route.settled.append(settled)
        self.task_log.ended(task, outcome, self._clock.monotonic())

    def cut_off(self, task: TakenTask, outcome: Outcome) -> None:
        """End the run of a task from outside, with this outcome."""
        route = self._held.get(task)
        if route is not None and task not in self._decided:
            self._abandon(route, task)
            self.finished(task, outcome)
            self.wake()

    def each(self, tasks: Iterable[TakenTask], step: Callable[[TakenTask], object]) -> None:
        """Take a step for each task. One for which it raises is set aside, and the others go on."""
        for task in tasks:
            try:
                step(task)
            except Exception as error:  # noqa: BLE001, PERF203  # whatever it is, it is this task's
                self.set_aside(task, error)

    def set_aside(self, task: TakenTask, error: Exception) -> None:
        """Something that was done for a task has raised: archive the task, with the reason."""
        log.error("queue %s: task %s is set aside", task.queue, task.id, exc_info=error)
        self.cut_off(task, failure_of(error))

    def lost(self, tasks: Sequence[TakenTask], why: str) -> None:
        """These tasks belong to somebody else now: nothing is written for them, work on them ends."""
        for task in tasks:
            route = self._held.get(task)
            if route is None:
                continue
            settled = route.drop(task)
            if task not in self._decided:
                self._abandon(route, task)
            elif settled is None:
                continue  # its outcome is on the way; the reply will tell
            del self._held[task]
            self._decided.discard(task)
            self._note_loss(task, why, settled)
        if tasks:
            self.wake()

    def _abandon(self, route: Route, task: TakenTask) -> None:
        try:
            route.runner.abandon(task)
        except Exception:
            log.exception("queue %s: the run of task %s could not be ended", task.queue, task.id)

    def _note_loss(self, task: TakenTask, why: str, settled: Settled | None = None) -> None:
        in_doubt = settled is not None and settled.in_doubt
        if in_doubt and why != LEASE_ENDED:
            log.info("queue %s: task %s was written when its reply was lost", task.queue, task.id)
            return
        self.counts["Lost"] += 1
        fate = "may or may not have been written" if in_doubt else "is not written"
        log.warning("queue %s: lost task %s, %s; its outcome %s", task.queue, task.id, why, fate)
