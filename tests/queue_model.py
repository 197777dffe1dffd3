"""What asynq's rules make of a Redis, kept in Python: the tests let it live through the same history as the real one.

It holds every key that a history may touch and knows who holds which task, from the rules alone: nothing here asks how
the worker's scripts do it.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from asynq_operations import ARCHIVE_SECONDS, IN_SETS, ConflictError, DuplicateError, RefusedError, groups_key
from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.settle import Policy
    from set_clock import SetClock

LEASE = 30
GRACE = 30
STATS_SECONDS = 90 * 24 * 3600
FOR_EVER = 253_402_300_799
SETS = sorted(IN_SETS)
RETRY_DELAY = 15
"""Seconds before the next attempt where the outcome does not say."""


@dataclass
class Task:
    """One id of a queue, and what is stored for it.

    Attributes:
        place: the key that holds the id: ``pending``, ``active``, ``scheduled``, ``retry``, ``archived``,
            ``completed``, ``g:<group>``; empty where asynq leaves a hash behind without a place.
        score: of its place, if that is a sorted set.
        exists: whether there is a hash.
        lease: end of its lease.
        holder: who holds it; a number that belongs to one taking.
        fields: of its hash, without ``msg``.
    """

    queue: str
    id: str
    place: str
    msg: bytes | None
    fields: dict[str, bytes]
    score: float = 0.0
    exists: bool = True
    lease: float | None = None
    holder: int | None = None

    @property
    def state(self) -> str:
        return self.fields["state"].decode()

    @state.setter
    def state(self, state: str) -> None:
        self.fields["state"] = state.encode()

    def number(self, name: str) -> int | None:
        """A field that is a whole number."""
        return int(self.fields[name]) if name in self.fields else None

    @property
    def message(self) -> TaskMessage:
        """What is stored; or, where that is no message of this task, what the worker puts in its place."""
        if not self.is_malformed:
            return TaskMessage.FromString(self.msg or b"")
        return TaskMessage(id=self.id, queue=self.queue, payload=self.msg or b"")

    @property
    def is_malformed(self) -> bool:
        if self.msg is None:
            return True
        try:
            return bool(TaskMessage.FromString(self.msg).id != self.id)
        except DecodeError:
            return True


@dataclass
class Lookup:
    """A key of the runqy server's, with the time of this machine's clock at which it goes away."""

    entry: dict[str, Any]
    expires_at: float | None = None

    def expire(self, seconds: int) -> None:
        self.expires_at = time.time() + seconds

    def as_recorded(self) -> dict[str, Any]:
        return self.entry if self.expires_at is None else {**self.entry, "expires_at": self.expires_at}


@dataclass
class Taken:
    """What an exchange is to give: tasks, each with the time since when it was pending (unix ns; 0 if unknown)."""

    tasks: list[tuple[Task, int]]
    dropped: list[str]
    paused: bool


@dataclass
class QueueModel:
    """All queues of one Redis."""

    clock: SetClock
    policies: dict[str, Policy]
    archive_size: int
    tasks: dict[tuple[str, str], Task] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    active: dict[str, list[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    groups: dict[str, set[str]] = field(default_factory=dict)
    paused: dict[str, int] = field(default_factory=dict)
    locks: dict[str, Lookup] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    days: dict[str, tuple[int, int]] = field(default_factory=dict)
    lookups: dict[str, Lookup] = field(default_factory=dict)
    results: dict[str, Lookup] = field(default_factory=dict)
    takings: int = 0
    has_archived: bool = False

    def __post_init__(self) -> None:
        for queue in self.policies:
            self.pending[queue], self.active[queue], self.groups[queue] = [], [], set()
            self.totals |= {f"{queue} processed": 0, f"{queue} failed": 0}

    @property
    def now(self) -> int:
        return int(self.clock.now())

    # What clients do.

    def enqueue(self, task: TaskMessage, lock_seconds: int = 0) -> None:
        """Put a task at the end of its queue."""
        new = self._create(task, lock_seconds, "pending")
        new.fields["pending_since"] = b"%d" % self.clock.now_ns()
        if lock_seconds:
            new.fields["unique_key"] = task.unique_key.encode()
        self._push(new)

    def schedule(self, task: TaskMessage, process_at: int, lock_seconds: int = 0) -> None:
        """Put a task among those that wait for their time."""
        new = self._create(task, lock_seconds, "scheduled")
        new.score = process_at
        if lock_seconds:
            new.fields["unique_key"] = task.unique_key.encode()

    def add_to_group(self, task: TaskMessage, lock_seconds: int = 0) -> None:
        """Put a task into its group."""
        new = self._create(task, lock_seconds, f"g:{task.group_key}")
        new.state, new.score = "aggregating", self.now
        new.fields["group"] = task.group_key.encode()
        self.groups[task.queue].add(task.group_key)

    def _create(self, task: TaskMessage, lock_seconds: int, place: str) -> Task:
        self.names.add(task.queue)
        if lock_seconds:
            if task.unique_key in self.locks:
                raise DuplicateError
            self.locks[task.unique_key] = Lookup(text(task.id))
            self.locks[task.unique_key].expire(lock_seconds)
        known = self.tasks.get((task.queue, task.id))
        if known is not None and known.exists:
            raise ConflictError
        new = Task(task.queue, task.id, place, task.SerializeToString(), {"state": place.encode()})
        self.tasks[new.queue, new.id] = new
        return new

    def _push(self, task: Task) -> None:
        task.place = "pending"
        self.pending[task.queue].insert(0, task.id)

    # What the worker does.

    def exchange(self, queue: str, endings: Iterable[tuple[str, int, Outcome]], take: int, lease: float) -> Any:
        """Finish tasks, of which id and taking are given, and take some. Returns who was held, and what is taken."""
        held = [self.finish(queue, *ending) for ending in endings]
        self._trim_archive(queue)
        return held, self.take(queue, take, lease)

    def take(self, queue: str, count: int, lease: float) -> Taken:
        """The oldest become active."""
        if queue in self.paused:
            return Taken([], [], paused=True)
        taken, dropped = [], []
        for _ in range(min(count, len(self.pending[queue]))):
            task = self.tasks[queue, self.pending[queue].pop()]
            if not task.exists:
                dropped.append(self._forget(task).id)
                continue
            self.takings += 1
            self.active[queue].insert(0, task.id)
            task.place, task.state, task.lease, task.holder = "active", "active", lease, self.takings
            taken.append((task, int(task.fields.pop("pending_since", b"0"))))
        return Taken(taken, dropped, paused=False)

    def holds(self, queue: str, task_id: str, holder: int) -> bool:
        """Whether it is still this taking that the task is in the hands of."""
        task = self.tasks.get((queue, task_id))
        return task is not None and task.place == "active" and task.holder == holder

    def finish(self, queue: str, task_id: str, holder: int, outcome: Outcome) -> bool:
        """A run has ended. Changes nothing for a task that is not held."""
        if not self.holds(queue, task_id, holder):
            return False
        self.settle(self.tasks[queue, task_id], outcome)
        return True

    def settle(self, task: Task, outcome: Outcome) -> None:
        """Move a task on from active."""
        policy, message = self.policies[task.queue], task.message
        self._release(task)
        if isinstance(outcome, Success):
            self._count(task.queue, failed=False)
            self._unlock(task.id, message.unique_key)
            ttl = task.number("ttl_completed")
            if ttl is None:
                ttl = message.retention or (policy.ttl_completed if policy.store_results else -1)
            if ttl == -1:
                self._finished_without_trace(task)
            else:
                self._complete(task, message, ttl, outcome.result if policy.store_results else None)
        elif isinstance(outcome, Failure):
            self._fail(task, message, outcome)
        elif isinstance(outcome, Revoked):
            self._count(task.queue, failed=False)
            self._unlock(task.id, message.unique_key)
            self._finished_without_trace(task)
        else:
            task.place = task.state = "pending"
            task.fields["pending_since"] = b"%d" % self.clock.now_ns()
            self.pending[task.queue].append(task.id)

    def _release(self, task: Task) -> None:
        self.active[task.queue].remove(task.id)
        task.lease = task.holder = None

    def _finished_without_trace(self, task: Task) -> None:
        self._forget(task)
        self.lookups.pop(task.id, None)

    def _complete(self, task: Task, message: TaskMessage, ttl: int, result: bytes | None) -> None:
        message.completed_at = self.now
        task.msg = message.SerializeToString()
        task.place = task.state = "completed"
        task.score = self.now + ttl if ttl else FOR_EVER
        if result:
            task.fields["result"] = result
            self.results[task.id] = Lookup(data(result))
            if ttl:
                self.results[task.id].expire(ttl)
        if ttl and task.id in self.lookups:
            self.lookups[task.id].expire(ttl)

    def _fail(self, task: Task, message: TaskMessage, outcome: Failure) -> None:
        policy = self.policies[task.queue]
        allowed = message.retry if policy.max_retry is None else min(message.retry, policy.max_retry)
        message.error_msg, message.last_failed_at = outcome.error, self.now
        uncounted = outcome.retry and not outcome.counted
        if outcome.retry and message.retried < allowed:
            task.place = task.state = "retry"
            task.score = self.now + (RETRY_DELAY if outcome.delay is None else outcome.delay)
            if not uncounted:
                message.retried += 1
                self._count(task.queue, failed=True)
            task.msg = message.SerializeToString()
            return
        task.msg = message.SerializeToString()
        task.place = task.state = "archived"
        task.score = self.now
        self.has_archived = True
        self._count(task.queue, failed=True)
        ttl = task.number("ttl_archived")
        ttl = policy.ttl_archived if ttl is None else ttl
        if ttl and task.id in self.lookups:
            self.lookups[task.id].expire(ttl)

    def _trim_archive(self, queue: str) -> None:
        """After something was archived: what is too old, or beyond the newest, goes."""
        if not self.has_archived:
            return
        self.has_archived = False
        archived = self.members(queue, "archived")
        old = [task for task in archived if task.score <= self.now - ARCHIVE_SECONDS]
        young = archived[len(old) :]
        for task in old + young[: max(0, len(young) - self.archive_size)]:
            self._forget(task)

    def _count(self, queue: str, *, failed: bool) -> None:
        day = keys.utc_day(self.now)
        for name in ("processed", "failed") if failed else ("processed",):
            self.totals[f"{queue} {name}"] += 1
            key = f"asynq:{{{queue}}}:{name}:{day}"
            count, expires_at = self.days.get(key, (0, self.now + STATS_SECONDS))
            self.days[key] = (count + 1, expires_at)

    def _unlock(self, task_id: str, lock: str) -> None:
        if lock in self.locks and self.locks[lock].entry == text(task_id):
            del self.locks[lock]

    def _forget(self, task: Task) -> Task:
        return self.tasks.pop((task.queue, task.id))

    def extend(self, queue: str, task_id: str, holder: int) -> bool:
        """Hold a task for longer. Returns whether it was held."""
        if not self.holds(queue, task_id, holder):
            return False
        task = self.tasks[queue, task_id]
        lease = task.lease or 0
        task.lease = max(lease, self.now + LEASE + lease % 1)
        return True

    def adopt(self, queue: str) -> list[str]:
        """Give ids of active without a lease one that ends now. Returns them."""
        adopted = [task_id for task_id in self.active[queue] if self.tasks[queue, task_id].lease is None]
        for task_id in adopted:
            self.tasks[queue, task_id].lease = self.now
        return adopted

    def recover(self, queue: str, error: str) -> None:
        """Take tasks away from workers that have let their leases end, oldest first."""
        held = [task for task in self.tasks.values() if task.queue == queue and task.lease is not None]
        expired = [task for task in held if (task.lease or 0) <= self.now - GRACE]
        for task in sorted(expired, key=lambda task: (task.lease or 0, task.id)):
            if not task.exists:
                self._release(task)
                self._forget(task)
            elif task.is_malformed:
                self.settle(task, Failure(self.why_malformed(task), retry=False))
            else:
                began = task.state != "pending"
                self.settle(task, Failure(error) if began else Unstarted())
        self._trim_archive(queue)

    @staticmethod
    def why_malformed(task: Task) -> str:
        """The worker's own words."""
        if task.msg is None:
            return "the task's hash has no field msg"
        return f"the stored message ({len(task.msg)} bytes) is not a valid asynq message"

    def forward(self, queue: str) -> None:
        """Make pending, or put into its group, what is due."""
        for place in ("scheduled", "retry"):
            for task in self.members(queue, place):
                if task.score > self.now:
                    continue
                if not task.exists:
                    self._forget(task)
                elif task.fields.get("group"):
                    task.state, task.score = "aggregating", self.now
                    task.place = "g:" + task.fields["group"].decode()
                else:
                    task.state = "pending"
                    task.fields["pending_since"] = b"%d" % self.clock.now_ns()
                    self._push(task)

    def expire_completed(self, queue: str) -> None:
        """Delete completed tasks whose time is over."""
        for task in self.members(queue, "completed"):
            if task.score <= self.now:
                self._forget(task)

    def expire_archived(self, queue: str) -> None:
        """Delete archived tasks whose time is over, and with them the locks that nobody else would release."""
        for task in self.members(queue, "archived"):
            ttl = task.number("ttl_archived") if task.exists else None
            ttl = self.policies[queue].ttl_archived if ttl is None else ttl
            if ttl and task.score + ttl <= self.now:
                if task.exists:
                    self._unlock(task.id, task.fields.get("unique_key", b"").decode())
                self._forget(task)

    # What the inspector, and accidents, do.

    def pause(self, queue: str) -> None:
        """Let nothing be taken."""
        if queue in self.paused:
            raise RefusedError
        self.paused[queue] = self.now

    def unpause(self, queue: str) -> None:
        """Let tasks be taken again."""
        if queue not in self.paused:
            raise RefusedError
        del self.paused[queue]

    def run_task(self, queue: str, task_id: str) -> None:
        """Make a task pending now."""
        task = self._inspected(queue, task_id, {"active", "pending"})
        self._leave(task)
        task.state = "pending"
        self._push(task)

    def archive_task(self, queue: str, task_id: str) -> None:
        """Archive a task. Those that are so old that they leave the archive by this keep their hashes."""
        task = self._inspected(queue, task_id, {"active", "archived"})
        self._leave(task)
        task.place = task.state = "archived"
        task.score = self.now
        for old in self.members(queue, "archived"):
            if old.score <= self.now - ARCHIVE_SECONDS:
                old.place = ""
                if not old.exists:
                    self._forget(old)

    def delete_task(self, queue: str, task_id: str) -> None:
        """Delete a task and its lock."""
        task = self._inspected(queue, task_id, {"active"})
        self._leave(task)
        self._unlock(task.id, task.fields.get("unique_key", b"").decode())
        self._forget(task)

    def remove_queue(self, queue: str) -> None:
        """Remove a queue with what waits in it."""
        if queue not in self.names or self.active[queue]:
            raise RefusedError
        for task in list(self.tasks.values()):
            if task.queue == queue and task.place in {"pending", "scheduled", "retry", "archived"}:
                self._forget(task)
        self.pending[queue] = []
        self.names.discard(queue)

    def _inspected(self, queue: str, task_id: str, refused: set[str]) -> Task:
        task = self.tasks.get((queue, task_id))
        if task is None or not task.exists or queue not in self.names or task.state in refused:
            raise RefusedError
        return task

    def _leave(self, task: Task) -> None:
        wanted = f"g:{task.fields['group'].decode()}" if task.state == "aggregating" else task.state
        if task.place != wanted:
            raise RefusedError
        if task.place == "pending":
            self.pending[task.queue].remove(task.id)
        elif task.state == "aggregating" and len(self.members(task.queue, task.place)) == 1:
            self.groups[task.queue].discard(task.fields["group"].decode())

    def crash_while_taking(self, queue: str) -> str | None:
        """Some other worker moved an id to active and died. Returns the id."""
        if not self.pending[queue]:
            return None
        task = self.tasks[queue, self.pending[queue].pop()]
        task.place = "active"
        self.active[queue].insert(0, task.id)
        return task.id

    def look_up(self, task_id: str, entry: dict[str, Any]) -> None:
        """The server writes its own key for a task; if it is to expire, it still is."""
        self.lookups.setdefault(task_id, Lookup(entry)).entry = entry

    def lose_hash(self, task: Task) -> None:
        """Somebody has deleted the hash of a task that nobody holds."""
        if task.place:
            task.exists = False
        else:
            self._forget(task)

    # The state.

    def members(self, queue: str, place: str) -> list[Task]:
        """The tasks of a sorted set, in its order."""
        found = [task for task in self.tasks.values() if task.queue == queue and task.place == place]
        return sorted(found, key=lambda task: (task.score, task.id))

    def state(self) -> dict[str, Any]:
        """Every key, in the form of the recordings."""
        found: dict[str, Any] = {key: lock.as_recorded() for key, lock in self.locks.items()}
        found |= {keys.LOOKUP_PREFIX + task_id: lookup.as_recorded() for task_id, lookup in self.lookups.items()}
        found |= {keys.RESULT_PREFIX + task_id: result.as_recorded() for task_id, result in self.results.items()}
        for key, (count, expires_at) in self.days.items():
            found[key] = {**text(str(count)), "expires_at": expires_at}
        found[keys.QUEUES] = {"type": "set", "value": sorted(self.names)}
        for queue in self.policies:
            found |= self._state_of(queue)
        return {key: entry for key, entry in found.items() if entry.get("value") != []}

    def _state_of(self, queue: str) -> dict[str, Any]:
        names = keys.queue_keys(queue)
        found: dict[str, Any] = {
            names.pending: {"type": "list", "value": self.pending[queue]},
            names.active: {"type": "list", "value": self.active[queue]},
            groups_key(queue): {"type": "set", "value": sorted(self.groups[queue])},
        }
        if queue in self.paused:
            found[names.paused] = text(str(self.paused[queue]))
        for name in ("processed", "failed"):
            if self.totals[f"{queue} {name}"]:
                found[getattr(names, name)] = text(str(self.totals[f"{queue} {name}"]))
        tasks = [task for task in self.tasks.values() if task.queue == queue]
        leases = [[task.id, task.lease] for task in tasks if task.lease is not None]
        found[names.lease] = {"type": "zset", "value": sorted(leases)}
        for place in {*SETS, *(task.place for task in tasks if task.place.startswith("g:"))}:
            members = [[task.id, task.score] for task in self.members(queue, place)]
            found[f"asynq:{{{queue}}}:{place}"] = {"type": "zset", "value": members}
        for task in tasks:
            if task.exists:
                stored = {} if task.msg is None else {"msg": task.msg}
                found[names.task(task.id)] = hash_of({**task.fields, **stored})
        return found


def text(value: str) -> dict[str, Any]:
    """A string key, as recorded."""
    return data(value.encode())


def data(value: bytes) -> dict[str, Any]:
    """A string key of bytes, as recorded."""
    return {"type": "string", "value_b64": base64.b64encode(value).decode()}


def hash_of(fields: dict[str, bytes]) -> dict[str, Any]:
    """A hash, as recorded."""
    encoded = {name: base64.b64encode(value).decode() for name, value in fields.items()}
    return {"type": "hash", "value_b64": encoded}


def places(state: dict[str, Any], queue: str) -> dict[str, Sequence[str]]:
    """For every id of a queue the places it is found in."""
    found: dict[str, list[str]] = {}
    prefix = f"asynq:{{{queue}}}:"
    for key, entry in state.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and (name in {"pending", "active", *SETS} or name.startswith("g:")):
            for member in entry["value"]:
                found.setdefault(member if isinstance(member, str) else member[0], []).append(name)
    return dict(found)
