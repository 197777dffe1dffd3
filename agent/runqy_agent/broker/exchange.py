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
        held: for each finished task whether this worker still held it; if not, nothing was written for it.
        taken: new tasks, oldest first.
        dropped: ids found in the queue without a task, now removed.
        paused: the queue is paused, nothing was taken.
        error: Redis refused the step; nothing was done.
        in_doubt: with an error: the connection failed, so it may have been done all the same.
    """

    held: list[bool] = field(default_factory=list)
    taken: list[TakenTask] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    paused: bool = False
    error: Exception | None = None
    in_doubt: bool = False


@dataclass(slots=True)
class ExpiredTask:
    """A task whose worker let its lease end.

    Attributes:
        task: the task, with ``held_until`` being the end of the lease that was found.
        started: False if it was moved to active but never taken properly, so that it certainly did not run.
    """

    task: TakenTask
    started: bool
