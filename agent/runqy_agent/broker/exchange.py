"""What goes to Redis and comes back in one exchange."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.broker.settle import Settled


class NotDoneError(RedisConnectionError):
    """Redis could not be reached, or has refused everything: nothing was carried out."""


@dataclass(slots=True)
class Exchange:
    """What to do with one queue in one round trip.

    Attributes:
        queue: the sub-queue.
        finished: settled tasks of this queue.
        take: how many tasks to take.
        recovering: the finished tasks are another worker's, whose leases ended: one that was renewed is left alone.
    """

    queue: str
    finished: list[Settled] = field(default_factory=list)
    take: int = 0
    recovering: bool = False


@dataclass(slots=True)
class Exchanged:
    """What came of it.

    Attributes:
        held: for each finished task whether its outcome is written; if not, this worker no longer held it and nothing
            was changed, or it is among the refused ones.
        refused: number of a finished task to why Redis refused to write its outcome: this worker still holds it.
        taken: new tasks, oldest first.
        dropped: ids found in the queue without a task, now removed.
        repeated: second ids of tasks that are elsewhere, now removed.
        paused: the queue is paused, nothing was taken.
        not_taken: why Redis refused to give tasks; none was taken then. "" if it did not.
        error: Redis refused the exchange as a whole; nothing was done.
        in_doubt: with an error: the connection failed, so it may have been done all the same.
    """

    held: list[bool] = field(default_factory=list)
    taken: list[TakenTask] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    paused: bool = False
    error: Exception | None = None
    in_doubt: bool = False
    refused: dict[int, str] = field(default_factory=dict)
    not_taken: str = ""
    repeated: list[str] = field(default_factory=list)

    def why_refused(self) -> str:
        """What Redis has refused, and why; "" if nothing."""
        if self.error is not None:
            return str(self.error)
        whys = [f"{len(self.refused)} outcomes: {next(iter(self.refused.values()))}"] if self.refused else []
        return "; ".join([*whys, f"to give tasks: {self.not_taken}"] if self.not_taken else whys)


@dataclass(slots=True)
class ExpiredTask:
    """A task whose worker let its lease end.

    Attributes:
        task: the task, with ``held_until`` being the end of the lease that was found.
        started: False if it was moved to active but never taken properly, so that it certainly did not run.
    """

    task: TakenTask
    started: bool
