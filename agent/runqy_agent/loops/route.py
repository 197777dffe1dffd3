"""One sub-queue as the processor sees it: who runs its tasks, by which rules, and what is on its way back to Redis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.broker.exchange import Exchange
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.broker.settle import Policy, Settled
    from runqy_agent.clock import Clock
    from runqy_agent.loops.listener import Listener
    from runqy_agent.process.runner import Runner


@dataclass(slots=True, eq=False)
class Route:
    """A sub-queue.

    Attributes:
        queue: its name.
        priority: its weight.
        runner: who runs its tasks.
        policy: the rules by which they are settled.
        active_timeout, pending_timeout: seconds, for tasks that carry none; 0 for none.
        listener: who waits while it is empty.
        not_before: monotonic seconds; the queue is left alone until then.
        take_not_before: monotonic seconds; no task is asked for until then.
        settled: outcomes to be written.
        refused: outcomes that Redis has refused to write; they are sent again later. Their tasks take no slots.
        closed: it gives no tasks any more: the server has taken the sub-queue away.
    """

    queue: str
    priority: int
    runner: Runner
    policy: Policy
    active_timeout: float = 0.0
    pending_timeout: float = 0.0
    listener: Listener | None = None
    not_before: float = 0.0
    take_not_before: float = 0.0
    settled: list[Settled] = field(default_factory=list)
    refused: list[Settled] = field(default_factory=list)
    send_again_at: float = 0.0
    closed: bool = False

    def may_give(self, now: float) -> bool:
        """Whether it makes sense to ask for tasks. ``now`` is in monotonic seconds."""
        known_empty = self.listener is not None and self.listener.armed
        allowed = self.not_before <= now and self.take_not_before <= now
        return not known_empty and not self.closed and self.runner.ready and allowed

    def take_back(self, request: Exchange) -> None:
        """An exchange did not succeed: what it was to write is still to be written."""
        self.settled = request.finished + self.settled

    def was_refused(self, settled: Settled, again_at: float) -> None:
        """Redis has refused to write an outcome; try again then (monotonic seconds)."""
        self.refused.append(settled)
        self.send_again_at = again_at

    def send_again(self, now: float) -> bool:
        """Send what was refused, if it is time. ``now`` is in monotonic seconds. Returns whether there is some."""
        is_time = bool(self.refused) and self.send_again_at <= now
        if is_time:
            self.settled, self.refused = self.refused + self.settled, []
        return is_time

    def due_later(self, now: float) -> float:
        """When there is something to do of which nobody else will tell; infinity if there is not. Monotonic seconds."""
        moments = [self.send_again_at] if self.refused else []
        moments += [moment for moment in (self.not_before, self.take_not_before) if moment > now]
        return min(moments, default=math.inf)

    def note_answer(self, *, paused: bool, gave_less: bool) -> None:
        """What an exchange has found: whether the queue is paused, or gave less than it was asked for."""
        if self.listener is not None and (paused or gave_less):
            self.listener.arm(paused=paused)

    def has_room(self, *, room: bool) -> None:
        """Whether there is room for tasks of this queue now; if not, other workers are to take them."""
        if self.listener is not None:
            if room:
                self.listener.resume()
            else:
                self.listener.rest()

    def too_late(self, now: float) -> list[TakenTask]:
        """Tasks whose lease is over while their outcome still waits to be written. ``now`` is in monotonic seconds."""
        return [settled.task for settled in (*self.settled, *self.refused) if settled.task.lease_ends <= now]

    def drop(self, task: TakenTask) -> Settled | None:
        """Do not write the outcome of a task. Returns it; None if it is not waiting to be written."""
        for waiting in (self.settled, self.refused):
            for settled in waiting:
                if settled.task is task:
                    waiting.remove(settled)
                    return settled
        return None

    def refusal(self, task: TakenTask, clock: Clock) -> Failure | None:
        """Find out how long a task that was taken may run. Returns why it is not to be run; None if it is."""
        if task.malformed:
            return Failure(f"archived unrun: {task.malformed}", retry=False)
        limit = self.pending_timeout if task.pending_timeout is None else task.pending_timeout
        waited = clock.now() - task.pending_since / 1e9 if task.pending_since else 0.0
        if limit and waited > limit:
            why = f"it waited {waited:.0f} s, longer than its pending timeout of {limit:g} s"
            return Failure(f"archived unrun: {why}", retry=False)
        task.limit(self.active_timeout, clock.offset)
        now = clock.monotonic()
        return Failure(task.deadline_error(now)) if task.is_over(now) else None


def follow(known: dict[str, Route], routes: Iterable[Route]) -> None:
    """Serve these sub-queues: close all others, add what is new, and let the known ones go on with new settings.

    What a known one has on its way back to Redis stays with it.
    """
    for route in known.values():
        route.closed, route.listener = True, None
    for new in routes:
        route = known.setdefault(new.queue, new)
        route.priority, route.runner, route.policy, route.listener = new.priority, new.runner, new.policy, new.listener
        route.active_timeout, route.pending_timeout = new.active_timeout, new.pending_timeout
        route.closed = False
