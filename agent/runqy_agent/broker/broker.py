"""The one door between the worker's loops and Redis: each step one atomic script."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import ClusterDownError, ResponseError

from runqy_agent.broker import keys
from runqy_agent.broker.exchange import Exchange, Exchanged, ExpiredTask, NotDoneError
from runqy_agent.broker.ids import second_ids, text, texts
from runqy_agent.broker.message import TakenTask, decode, stored_nanoseconds, stored_seconds
from runqy_agent.broker.redis_time import RedisTime
from runqy_agent.broker.script_runner import ScriptRunner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.channel import Channel
    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.lookup import LookupKeys
    from runqy_agent.broker.script_runner import Step
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)

LEASE_SECONDS = 30
"""How long a task is held without being extended (asynq's value)."""

STATS_SECONDS = 90 * 24 * 3600
ARCHIVE_SECONDS = 90 * 24 * 3600
ARCHIVE_SIZE = 10_000
FORWARD_BATCH = 100
RENEWED_SECONDS = 3600
"""How far a lease of ours may be renewed while an exchange is on its way, which can be as long as Redis is frozen."""

_LEASE_BITS = 20


class Broker(ScriptRunner):
    """asynq's queues in one Redis; ``FlatBroker`` is the same for the flat layout.

    All methods raise ``redis.exceptions.RedisError`` or ``OSError`` when Redis cannot be reached or refuses; whether
    to try again is the caller's decision.

    Attributes:
        values_taken: how many values tell of a task that was taken.
        time: keeps the clock at that of Redis.
        late_stamps: whether there is a runqy server, which may write its keys for a task when that has long ended:
            they are deleted with the task.
    """

    values_taken: ClassVar[int] = 7

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        channel: Channel | None = None,
        lookup_keys: bool = True,
        afterwards: LookupKeys | None = None,
    ) -> None:
        """Use a client.

        Args:
            client: an open client.
            clock: where times come from; those in Redis are in Redis' clock.
            channel: a connection for exchanges, taken by whoever finds it free; without one the client serves all.
            lookup_keys: whether the scripts may touch ``asynq:t:<id>`` and ``asynq:result:<id>``, which are not
                in the queue's slot: not on a cluster.
            afterwards: writes these keys after each exchange, where the scripts may not.
        """
        super().__init__(client)
        self._clock = clock
        self.time = RedisTime(self, clock)
        self._channel = channel
        self._lookup_prefix = keys.LOOKUP_PREFIX if lookup_keys else ""
        self._result_prefix = keys.RESULT_PREFIX if lookup_keys else ""
        self._afterwards = afterwards
        self.late_stamps = False
        self._uncounted: dict[str, tuple[int, int]] = {}

    def new_lease(self) -> float:
        """The end of a lease that begins now (unix seconds of Redis' clock), at a fraction of a second like no other's.

        By that fraction the tasks of an exchange can be found again when its reply was lost, and told from those that
        somebody else took at the same time.
        """
        fraction = random.randrange(1, 1 << _LEASE_BITS) / (1 << _LEASE_BITS)  # asynq's own leases have none
        return int(self._clock.now()) + LEASE_SECONDS + fraction

    async def exchange(self, requests: Sequence[Exchange], held_until: float | None = None) -> list[Exchanged]:
        """Finish and take tasks of several queues, in one round trip.

        Args:
            requests: at most one for each queue.
            held_until: the end of the lease of what is taken, from ``new_lease``; by default a plain one.

        Returns:
            One answer for each request, in order. A refusal by Redis is told where it belongs: for one task, for the
            taking, or as the error of an answer for all that concerns its queue; on a cluster so is trouble with the
            node of one queue, as long as others answer.
        """
        now = self._clock.now()
        if held_until is None:
            held_until = int(now) + LEASE_SECONDS
        steps = [self._exchange_step(request, int(now), held_until) for request in requests]
        try:
            replies = await self._run_all(steps, self._channel)
        except NotDoneError:
            raise
        except BaseException:
            for request in requests:  # they may have been counted now, and nothing is to be counted twice
                self._uncounted.pop(request.queue, None)
            raise
        trouble = [reply for reply in replies if isinstance(reply, Exception) and not _is_refusal(reply)]
        if trouble and len(trouble) == len(replies):
            raise trouble[0]
        answers = [
            self._exchanged(request, reply, held_until) for request, reply in zip(requests, replies, strict=True)
        ]
        if self._afterwards is not None:
            await self._afterwards.write(requests, answers)
        return answers

    def _exchange_step(self, request: Exchange, now: int, held_until: float) -> Step:
        queue = keys.queue_keys(request.queue, self.layout)
        args: list[Any] = [
            queue.task_prefix,
            self._lookup_prefix,
            self._result_prefix,
            now,
            now + STATS_SECONDS,
            now - ARCHIVE_SECONDS,
            ARCHIVE_SIZE,
            repr(held_until),
            request.take,
            queue.prefix,
            request.queue,
            *self._uncounted.get(request.queue, (0, 0)),
        ]
        renewed = 0 if request.recovering else RENEWED_SECONDS
        for settled in request.finished:
            args += (settled.step, settled.task.id, repr(settled.task.held_until + renewed))
            args += settled.values
        return "exchange", queue.exchange(keys.utc_day(now)), args

    def _exchanged(self, request: Exchange, reply: Any, held_until: float) -> Exchanged:
        if isinstance(reply, Exception):
            in_doubt = not isinstance(reply, ResponseError)
            if in_doubt:
                self._uncounted.pop(request.queue, None)
            return Exchanged(error=reply, in_doubt=in_doubt)
        self._uncounted.pop(request.queue, None)
        statuses, taken, dropped, repeated, paused, not_taken, *uncounted = reply
        if any(uncounted):
            log.warning("queue %s: Redis refuses to count, %d processed and %d failed wait", request.queue, *uncounted)
            self._uncounted[request.queue] = tuple(uncounted)
        return Exchanged(
            [status == 1 for status in statuses],
            self._tasks(request.queue, taken, held_until),
            texts(dropped),
            bool(paused),
            refused={at: text(status) for at, status in enumerate(statuses) if not isinstance(status, int)},
            not_taken=text(not_taken),
            repeated=second_ids(request.queue, "pending", repeated),
        )

    async def reclaim(self, queue: str, held_until: float) -> list[TakenTask]:
        """Find the tasks of a queue that an exchange with this lease has taken, when its reply was lost."""
        names = keys.queue_keys(queue, self.layout)
        taken = await self._run("reclaim", [names.lease], [repr(held_until), names.task_prefix])
        return self._tasks(queue, taken, held_until)

    def _tasks(self, queue: str, taken: list[Any], held_until: float) -> list[TakenTask]:
        return [
            self._task_or_stand_in(queue, taken[at : at + self.values_taken], held_until)
            for at in range(0, len(taken), self.values_taken)
        ]

    def _task_or_stand_in(self, queue: str, values: list[Any], held_until: float) -> TakenTask:
        """One task that cannot be read must not keep the others from being received: it is malformed, like others."""
        try:
            return self._task(queue, values, held_until)
        except Exception as error:
            log.exception("queue %s: a task could not be read", queue)
            task = self._task(queue, [values[0], None, *[None] * (self.values_taken - 2)], held_until)
            task.malformed = f"it could not be read: {type(error).__name__}: {error}"
            return task

    def _task(self, queue: str, values: list[Any], held_until: float) -> TakenTask:
        raw_id, raw, waiting_since, ttl_completed, ttl_archived, pending_timeout, active_timeout = values
        task_id = text(raw_id)
        message, malformed = decode(raw, task_id, queue)
        return TakenTask(
            id=task_id,
            queue=queue,
            message=message,
            held_until=held_until,
            lease_ends=held_until - self._clock.offset,
            pending_since=stored_nanoseconds(waiting_since),
            ttl_completed=stored_seconds(ttl_completed),
            ttl_archived=stored_seconds(ttl_archived),
            pending_timeout=stored_seconds(pending_timeout),
            active_timeout=stored_seconds(active_timeout),
            malformed=malformed,
        )

    async def extend(self, queue: str, tasks: Sequence[TakenTask]) -> list[TakenTask]:
        """Hold tasks for another lease. Those that are still held get their ``held_until`` moved.

        Returns:
            The tasks that this worker has lost.
        """
        before = [task.held_until for task in tasks]
        offset = self._clock.offset
        now = int(self._clock.monotonic() + offset)
        args: list[Any] = []
        for task, old in zip(tasks, before, strict=True):
            held_until = max(old, now + LEASE_SECONDS + old % 1)  # the fraction tells whose lease it is
            args += (task.id, repr(old), repr(held_until))
            # From now on Redis may already know the new end, whatever becomes of the reply.
            task.held_until = held_until
        held = await self._run("extend", [keys.queue_keys(queue, self.layout).lease], args)
        lost = []
        for task, is_held, old in zip(tasks, held, before, strict=True):
            if is_held:
                task.lease_ends = task.held_until - offset
            else:
                task.held_until = old
                lost.append(task)
        return lost

    async def forward(self, queue: str) -> None:
        """Make tasks pending that are scheduled, or to be retried, and due.

        Raises:
            ResponseError: Redis refuses it for some; they are where they were, all others have been forwarded.
        """
        names = keys.queue_keys(queue, self.layout)
        count = FORWARD_BATCH
        while count == FORWARD_BATCH:
            now_ns = self._clock.now_ns()
            args = [now_ns // 1_000_000_000, FORWARD_BATCH, names.task_prefix, names.group_prefix, now_ns, names.prefix]
            count, trouble, repeated = await self._run("forward", [names.pending, names.scheduled, names.retry], args)
            second_ids(queue, "scheduled or retry", repeated)
        if trouble:
            raise ResponseError(text(trouble))

    async def expired(self, queue: str, cutoff: float, limit: int = 100) -> list[ExpiredTask]:
        """Find tasks whose lease ended before ``cutoff`` (unix seconds of Redis' clock), oldest first."""
        names = keys.queue_keys(queue, self.layout)
        args = [int(cutoff), limit, names.task_prefix, names.prefix]
        found, dropped, repeated = await self._run("expired", [names.lease, names.active], args)
        tasks = []
        for at in range(0, len(found), 2 + self.values_taken):
            lease, state, *values = found[at : at + 2 + self.values_taken]
            task = self._task_or_stand_in(queue, values, float(lease))
            tasks.append(ExpiredTask(task, started=state != b"pending"))
        second_ids(queue, "active", repeated)
        for task_id in texts(dropped):
            log.warning("queue %s: dropped the id %r from active, for which there is no task", queue, task_id)
        return tasks

    async def adopt(self, queue: str) -> list[str]:
        """Give a lease that ends now to ids that sit in active without one, or with one that no worker asks for.

        Returns:
            These ids.
        """
        names = keys.queue_keys(queue, self.layout)
        args = [int(self._clock.now()), names.task_prefix, names.prefix]
        adopted, repeated = await self._run("adopt", [names.active, names.lease], args)
        second_ids(queue, "active", repeated)
        return texts(adopted)

    async def expire_completed(self, queue: str, limit: int = 100) -> int:
        """Delete completed tasks whose retention is over, up to ``limit``. Returns how many."""
        names = keys.queue_keys(queue, self.layout)
        args = [int(self._clock.now()), limit, names.task_prefix, names.prefix, *self._late_lookup(queue)]
        left = await self._run("expire_completed", [names.completed], args)
        await self._forget_lookups(left)
        return len(left)

    async def expire_archived(self, queue: str, ttl: int, offset: int, limit: int = 500) -> tuple[int, int]:
        """Delete archived tasks that are older than their own TTL, or than ``ttl`` seconds (0: never).

        Returns:
            How many entries were looked at from ``offset`` on, and how many of them were deleted.
        """
        names = keys.queue_keys(queue, self.layout)
        args = [int(self._clock.now()), offset, limit, ttl, names.task_prefix, names.prefix, *self._late_lookup(queue)]
        seen, left = await self._run("expire_archived", [names.archived], args)
        await self._forget_lookups(left)
        return seen, len(left)

    def _late_lookup(self, queue: str) -> tuple[str, str]:
        return (self._lookup_prefix if self.late_stamps else "", queue)

    async def _forget_lookups(self, task_ids: list[bytes]) -> None:
        if self._afterwards is not None and self.late_stamps and task_ids:
            await self._afterwards.delete(texts(task_ids))


def _is_refusal(error: Exception) -> bool:
    """Whether Redis has refused one command, and not all of them."""
    return isinstance(error, ResponseError) and not isinstance(error, ClusterDownError)
