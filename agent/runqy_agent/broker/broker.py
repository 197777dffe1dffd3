"""The one door between the worker's loops and Redis: each step one atomic script."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import ClusterDownError, NoScriptError, ResponseError

from runqy_agent.broker import keys, scripts
from runqy_agent.broker.cluster import ClusterClient
from runqy_agent.broker.exchange import Exchange, Exchanged, ExpiredTask
from runqy_agent.broker.message import TakenTask, decode, stored_seconds
from runqy_agent.broker.redis_time import RedisTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.channel import Channel
    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.lookup import LookupKeys
    from runqy_agent.clock import Clock

LEASE_SECONDS = 30
"""How long a task is held without being extended (asynq's value)."""

STATS_SECONDS = 90 * 24 * 3600
ARCHIVE_SECONDS = 90 * 24 * 3600
ARCHIVE_SIZE = 10_000
FORWARD_BATCH = 100
RENEWED_SECONDS = 3600
"""How far a lease of ours may be renewed while an exchange is on its way, which can be as long as Redis is frozen."""
Step = tuple[str, list[str], list[Any]]
"""A script's name, its KEYS and its ARGV."""

_LEASE_BITS = 20


class Broker:
    """asynq's queues in one Redis; ``FlatBroker`` is the same for the flat layout.

    All methods raise ``redis.exceptions.RedisError`` or ``OSError`` when Redis cannot be reached or refuses; whether
    to try again is the caller's decision.

    Attributes:
        layout: how the keys are laid out.
        values_taken: how many values tell of a task that was taken.
        time: keeps the clock at that of Redis.
    """

    layout: ClassVar[keys.Layout] = "asynq"
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
        self.client = client
        self._clock = clock
        self.time = RedisTime(self, clock)
        self._channel = channel
        self._lookup_prefix = keys.LOOKUP_PREFIX if lookup_keys else ""
        self._result_prefix = keys.RESULT_PREFIX if lookup_keys else ""
        self._afterwards = afterwards

    async def load_scripts(self) -> None:
        """Make all scripts known to Redis, so that the first tasks need not."""
        texts = [script.text for script in scripts.all_scripts(self.layout)]
        if isinstance(self.client, ClusterClient):  # it loads no scripts in a pipeline
            await asyncio.gather(*(self.client.script_load(text) for text in texts))
        else:
            await self._execute([("SCRIPT LOAD", text) for text in texts])

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
            One answer for each request, in order. A refusal by Redis that concerns one queue is that answer's error;
            on a cluster so is trouble with the node of one queue, as long as others answer.
        """
        now = self._clock.now()
        if held_until is None:
            held_until = int(now) + LEASE_SECONDS
        steps = [self._exchange_step(request, int(now), held_until) for request in requests]
        replies = await self._run_all(steps, self._channel)
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
        ]
        renewed = 0 if request.recovering else RENEWED_SECONDS
        for settled in request.finished:
            args += (settled.step, settled.task.id, repr(settled.task.held_until + renewed))
            args += settled.values
        return "exchange", queue.exchange(keys.utc_day(now)), args

    def _exchanged(self, request: Exchange, reply: Any, held_until: float) -> Exchanged:
        if isinstance(reply, Exception):
            return Exchanged(error=reply, in_doubt=not isinstance(reply, ResponseError))
        statuses, taken, dropped, paused = reply
        tasks = self._tasks(request.queue, taken, held_until)
        return Exchanged(
            [status == 1 for status in statuses], tasks, [_text(task_id) for task_id in dropped], bool(paused)
        )

    async def reclaim(self, queue: str, held_until: float) -> list[TakenTask]:
        """Find the tasks of a queue that an exchange with this lease has taken, when its reply was lost."""
        names = keys.queue_keys(queue, self.layout)
        taken = await self._run("reclaim", [names.lease], [repr(held_until), names.task_prefix])
        return self._tasks(queue, taken, held_until)

    def _tasks(self, queue: str, taken: list[Any], held_until: float) -> list[TakenTask]:
        return [
            self._task(queue, taken[at : at + self.values_taken], held_until)
            for at in range(0, len(taken), self.values_taken)
        ]

    def _task(self, queue: str, values: list[Any], held_until: float) -> TakenTask:
        raw_id, raw, pending_since, ttl_completed, ttl_archived, pending_timeout, active_timeout = values
        task_id = _text(raw_id)
        message, malformed = decode(raw, task_id, queue)
        return TakenTask(
            id=task_id,
            queue=queue,
            message=message,
            held_until=held_until,
            lease_ends=held_until - self._clock.offset,
            pending_since=stored_seconds(pending_since) or 0,
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
        """Make tasks pending that are scheduled, or to be retried, and due."""
        names = keys.queue_keys(queue, self.layout)
        count = FORWARD_BATCH
        while count == FORWARD_BATCH:
            now_ns = self._clock.now_ns()
            args = [now_ns // 1_000_000_000, FORWARD_BATCH, names.task_prefix, names.group_prefix, now_ns]
            count = await self._run("forward", [names.pending, names.scheduled, names.retry], args)

    async def expired(self, queue: str, cutoff: float, limit: int = 100) -> list[ExpiredTask]:
        """Find tasks whose lease ended before ``cutoff`` (unix seconds of Redis' clock), oldest first."""
        names = keys.queue_keys(queue, self.layout)
        found = await self._run("expired", [names.lease, names.active], [int(cutoff), limit, names.task_prefix])
        tasks = []
        for at in range(0, len(found), 2 + self.values_taken):
            lease, state, *values = found[at : at + 2 + self.values_taken]
            task = self._task(queue, values, float(lease))
            tasks.append(ExpiredTask(task, started=state != b"pending"))
        return tasks

    async def adopt(self, queue: str) -> list[str]:
        """Give a lease that ends now to ids that sit in active without one. Returns these ids."""
        names = keys.queue_keys(queue, self.layout)
        adopted = await self._run("adopt", [names.active, names.lease], [int(self._clock.now())])
        return [_text(task_id) for task_id in adopted]

    async def expire_completed(self, queue: str, limit: int = 100) -> int:
        """Delete completed tasks whose retention is over, up to ``limit``. Returns how many."""
        names = keys.queue_keys(queue, self.layout)
        args = [int(self._clock.now()), limit, names.task_prefix]
        count: int = await self._run("expire_completed", [names.completed], args)
        return count

    async def expire_archived(self, queue: str, ttl: int, offset: int, limit: int = 500) -> tuple[int, int]:
        """Delete archived tasks that are older than their own TTL, or than ``ttl`` seconds (0: never).

        Returns:
            How many entries were looked at from ``offset`` on, and how many of them were deleted.
        """
        names = keys.queue_keys(queue, self.layout)
        args = [int(self._clock.now()), offset, limit, ttl, names.task_prefix]
        seen, deleted = await self._run("expire_archived", [names.archived], args)
        return seen, deleted

    async def run_script(self, name: str, script_keys: Iterable[str], args: Iterable[Any]) -> Any:
        """Run one of the package's scripts; for the parts of the broker that live in other modules."""
        return await self._run(name, list(script_keys), list(args))

    async def run_scripts(self, *steps: Step) -> None:
        """Run several, in one round trip. Raises the first refusal; the others have been carried out all the same."""
        for reply in await self._run_all(steps):
            if isinstance(reply, Exception):
                raise reply

    async def try_scripts(self, steps: Sequence[Step]) -> list[Any]:
        """Run several, in one round trip. A refusal takes the place of its reply."""
        return await self._run_all(steps)

    async def _run(self, name: str, script_keys: list[str], args: list[Any]) -> Any:
        (reply,) = await self._run_all([(name, script_keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _run_all(self, steps: Sequence[Step], channel: Channel | None = None) -> list[Any]:
        found = [scripts.load(name, self.layout) for name, _, _ in steps]
        packed = [
            ("EVALSHA", script.sha, len(script_keys), *script_keys, *args)
            for script, (_, script_keys, args) in zip(found, steps, strict=True)
        ]
        replies = await (channel.call(packed) if channel and not channel.busy else self._execute(packed))
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            # EVAL goes to the server that has said so, and it knows the script from then on.
            again = await self._execute([("EVAL", found[index].text, *packed[index][2:]) for index in missing])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies

    async def _execute(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip. A refusal is returned in its place, not raised.

        On a cluster also other trouble, with one of several nodes, is returned, not raised.
        """
        if isinstance(self.client, ClusterClient):
            return await self.client.execute_each(commands)
        if len(commands) == 1:
            try:
                return [await self.client.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        async with self.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))


def _is_refusal(error: Exception) -> bool:
    """Whether Redis has refused one command, and not all of them."""
    return isinstance(error, ResponseError) and not isinstance(error, ClusterDownError)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
