"""What asynq 0.26's client and inspector do to a queue, for tests that need more of them than the demo's client.

Facts from asynq's rdb package. Each operation takes several commands here, where asynq runs a script: fine for a test
in which nobody else writes at that moment.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from runqy_agent.broker import keys
from runqy_agent.demo.client import TaskClient

if TYPE_CHECKING:
    from redis import Redis

    from runqy_agent.broker.asynq_pb2 import TaskMessage
    from runqy_agent.clock import Clock

ARCHIVE_SECONDS = 90 * 24 * 3600
IN_SETS = {"scheduled", "retry", "archived", "completed"}
"""States whose ids are in the sorted set of that name."""


class RefusedError(Exception):
    """asynq would have returned an error, and nothing more was changed."""


class ConflictError(RefusedError):
    """There is a task of this id."""


class DuplicateError(RefusedError):
    """Another task holds the uniqueness lock."""


def unique_key(queue: str, task_type: str, payload: bytes) -> str:
    """The name of the lock that all tasks of this type and payload share."""
    digest = hashlib.md5(payload, usedforsecurity=False).hexdigest()
    return f"asynq:{{{queue}}}:unique:{task_type}:{digest}"


def groups_key(queue: str) -> str:
    """The set of the names of a queue's groups; the worker has no use for it."""
    return f"asynq:{{{queue}}}:groups"


class AsynqClient(TaskClient):
    """asynq's client. The messages it takes are complete: lock and group are those of their fields."""

    def put(self, task: TaskMessage, lock_seconds: int = 0) -> None:
        """Enqueue, with a uniqueness lock if it is to last some seconds."""
        self._begin(task, lock_seconds)
        self.enqueue_all([task])
        if lock_seconds:
            self.redis.hset(keys.queue_keys(task.queue).task(task.id), "unique_key", task.unique_key)

    def schedule(self, task: TaskMessage, process_at: int, lock_seconds: int = 0) -> None:
        """Enqueue for later (unix seconds)."""
        self._begin(task, lock_seconds)
        names = keys.queue_keys(task.queue)
        fields: dict[Any, Any] = {"msg": task.SerializeToString(), "state": "scheduled"}
        if lock_seconds:
            fields["unique_key"] = task.unique_key
        self.redis.hset(names.task(task.id), mapping=fields)
        self.redis.zadd(names.scheduled, {task.id: process_at})

    def add_to_group(self, task: TaskMessage, lock_seconds: int = 0) -> None:
        """Enqueue to be aggregated. asynq leaves the name of the lock out of the hash here."""
        self._begin(task, lock_seconds)
        names = keys.queue_keys(task.queue)
        fields: dict[Any, Any] = {"msg": task.SerializeToString(), "state": "aggregating", "group": task.group_key}
        self.redis.hset(names.task(task.id), mapping=fields)
        self.redis.zadd(names.group_prefix + task.group_key, {task.id: int(self.clock.now())})
        self.redis.sadd(groups_key(task.queue), task.group_key)

    def _begin(self, task: TaskMessage, lock_seconds: int) -> None:
        self.redis.sadd(keys.QUEUES, task.queue)
        if lock_seconds and not self.redis.set(task.unique_key, task.id, nx=True, ex=lock_seconds):
            raise DuplicateError(task.unique_key)
        if self.redis.exists(keys.queue_keys(task.queue).task(task.id)):
            raise ConflictError(task.id)  # asynq leaves the lock behind in this case


class AsynqInspector:
    """asynq's inspector, and through it asynqmon."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        # redis-py's types serve both of its clients, so they say little.
        self._redis: Any = redis
        self._clock = clock

    def pause(self, queue: str) -> None:
        """Let nothing be taken."""
        if not self._redis.set(keys.queue_keys(queue).paused, int(self._clock.now()), nx=True):
            raise RefusedError("it is paused")

    def unpause(self, queue: str) -> None:
        """Let tasks be taken again."""
        if not self._redis.delete(keys.queue_keys(queue).paused):
            raise RefusedError("it is not paused")

    def run_task(self, queue: str, task_id: str) -> None:
        """Make a task pending now, whether it waits, has failed for good or is completed."""
        names = keys.queue_keys(queue)
        state = self._state(queue, task_id)
        if state in {"active", "pending"}:
            raise RefusedError(f"it is {state}")
        self._leave(queue, task_id, state)
        self._redis.lpush(names.pending, task_id)
        self._redis.hset(names.task(task_id), "state", "pending")

    def archive_task(self, queue: str, task_id: str) -> None:
        """Archive a task. What is so old that it leaves the archive by this keeps its hash."""
        names = keys.queue_keys(queue)
        state = self._state(queue, task_id)
        if state in {"active", "archived"}:
            raise RefusedError(f"it is {state}")
        self._leave(queue, task_id, state)
        now = int(self._clock.now())
        self._redis.zadd(names.archived, {task_id: now})
        self._redis.hset(names.task(task_id), "state", "archived")
        self._redis.zremrangebyscore(names.archived, "-inf", now - ARCHIVE_SECONDS)

    def delete_task(self, queue: str, task_id: str) -> None:
        """Delete a task that is not active, and the lock that is its own."""
        key = keys.queue_keys(queue).task(task_id)
        state = self._state(queue, task_id)
        if state == "active":
            raise RefusedError("it is active")
        self._leave(queue, task_id, state)
        lock = self._redis.hget(key, "unique_key")
        if lock and self._redis.get(lock) == task_id.encode():
            self._redis.delete(lock)
        self._redis.delete(key)

    def remove_queue(self, queue: str) -> None:
        """Remove a queue with what waits in it. Locks, groups and completed tasks stay."""
        self._check_queue(queue)
        names = keys.queue_keys(queue)
        if self._redis.llen(names.active):
            raise RefusedError("it has active tasks")
        ids = self._redis.lrange(names.pending, 0, -1)
        for name in (names.scheduled, names.retry, names.archived):
            ids += self._redis.zrange(name, 0, -1)
        for task_id in ids:
            self._redis.delete(names.task(task_id.decode()))
        self._redis.delete(names.pending, names.active, names.scheduled, names.retry, names.archived, names.lease)
        self._redis.srem(keys.QUEUES, queue)

    def _check_queue(self, queue: str) -> None:
        if not self._redis.sismember(keys.QUEUES, queue):
            raise RefusedError("there is no such queue")

    def _state(self, queue: str, task_id: str) -> str:
        self._check_queue(queue)
        state = self._redis.hget(keys.queue_keys(queue).task(task_id), "state")
        if state is None:
            raise RefusedError("there is no such task")
        found: str = state.decode()
        return found

    def _leave(self, queue: str, task_id: str, state: str) -> None:
        """Take an id out of the place that its state names."""
        names = keys.queue_keys(queue)
        if state == "pending":
            gone = self._redis.lrem(names.pending, 0, task_id)
        elif state == "aggregating":
            group = self._redis.hget(names.task(task_id), "group").decode()
            gone = self._redis.zrem(names.group_prefix + group, task_id)
            if gone and not self._redis.exists(names.group_prefix + group):
                self._redis.srem(groups_key(queue), group)
        else:
            assert state in IN_SETS, state
            gone = self._redis.zrem(getattr(names, state), task_id)
        if not gone:
            raise RefusedError(f"it is not among those that are {state}")
