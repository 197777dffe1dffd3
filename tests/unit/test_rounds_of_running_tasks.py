"""What a look at the running tasks does: who is out of time, whose lease is renewed, whose is lost; to the second."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from runqy_agent.loops.deadlines import Deadlines
from runqy_agent.loops.holding import LEASE_ENDED
from runqy_agent.loops.leases import RENEW_BELOW, Leases
from runqy_agent.outcome import Failure
from set_clock import SetClock
from task_kit import NOW, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.loops.processor import Processor


class Slots:
    """A processor with these tasks; and a broker that extends leases, but for those that somebody else has."""

    def __init__(self, *tasks: TakenTask, somebody_elses: Sequence[str] = ()) -> None:
        self.held = self.running = list(tasks)
        self.ended: dict[str, Any] = {}
        self.lost_tasks: dict[str, str] = {}
        self.extended: list[tuple[str, list[str]]] = []
        self._somebody_elses = somebody_elses

    def each(self, tasks: Iterable[TakenTask], step: Callable[[TakenTask], object]) -> None:
        for task in list(tasks):
            step(task)

    def cut_off(self, task: TakenTask, outcome: Any) -> None:
        self.ended[task.id] = outcome

    def lost(self, tasks: Sequence[TakenTask], why: str) -> None:
        self.lost_tasks |= {task.id: why for task in tasks}

    async def extend(self, queue: str, tasks: Sequence[TakenTask]) -> list[TakenTask]:
        self.extended.append((queue, [task.id for task in tasks]))
        return [task for task in tasks if task.id in self._somebody_elses]


def look_at_leases(slots: Slots) -> None:
    asyncio.run(Leases(cast("Broker", slots), SetClock(NOW), cast("Processor", slots)).round())


def test_a_task_ends_when_its_deadline_has_come_and_not_before() -> None:
    over, soon, unlimited = taken("over", began_at=NOW - 2.5), taken("soon"), taken("unlimited")
    over.deadline, soon.deadline, unlimited.deadline = float(NOW), NOW + 0.01, math.inf
    slots = Slots(over, soon, unlimited)
    asyncio.run(Deadlines(SetClock(NOW), cast("Processor", slots)).round())
    assert slots.ended == {"over": Failure("context deadline exceeded: it was still running after 2.5 s")}


def test_leases_are_renewed_when_less_than_so_much_is_left_queue_by_queue() -> None:
    short: dict[str, Any] = {"lease_ends": NOW + RENEW_BELOW - 1}
    long: dict[str, Any] = {"lease_ends": NOW + RENEW_BELOW + 1}
    slots = Slots(taken("a", **short), taken("b", **long), taken("c", queue="r", **short), taken("d", **short))
    look_at_leases(slots)
    assert slots.extended == [("q.default", ["a", "d"]), ("r", ["c"])]
    assert slots.lost_tasks == {}


def test_a_lease_that_looks_long_here_and_is_short_for_redis_is_renewed() -> None:
    slots = Slots(taken("a", lease_ends=NOW + 30.0, held_until=NOW + RENEW_BELOW - 1))
    look_at_leases(slots)
    assert slots.extended == [("q.default", ["a"])]


def test_a_lease_that_has_ended_or_is_somebody_elses_is_lost() -> None:
    short: dict[str, Any] = {"lease_ends": NOW + 1.0}
    slots = Slots(
        taken("ended", lease_ends=float(NOW)), taken("taken", **short), taken("ours", **short), somebody_elses=["taken"]
    )
    look_at_leases(slots)
    assert slots.extended == [("q.default", ["taken", "ours"])]
    assert slots.lost_tasks == {"ended": LEASE_ENDED, "taken": "somebody else has taken it over"}
