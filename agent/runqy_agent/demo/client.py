"""A small client: puts tasks into queues the way asynq's client does, and reads back what became of them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

DAY = 24 * 3600


@dataclass(frozen=True)
class TaskInfo:
    """A task as it stands in Redis.

    Attributes:
        state: ``pending``, ``active``, ``scheduled``, ``retry``, ``archived`` or ``completed``.
        result: what is stored of its result.
    """

    id: str
    queue: str
    state: str
    message: TaskMessage
    result: bytes | None


class TaskClient:
    """Enqueues and inspects."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self.redis = redis
        self.clock = clock or Clock()

    def enqueue(self, queue: str, payload: bytes, **options: Any) -> str:
        """Enqueue one task and return its id; see ``message`` for the options."""
        return self.enqueue_all([message(queue, payload, **options)])[0]

    def enqueue_all(self, messages: Iterable[TaskMessage]) -> list[str]:
        """Enqueue tasks, each in one transaction, in few round trips."""
        ids = []
        with self.redis.pipeline(transaction=True) as pipeline:
            queues: set[str] = set()
            for task in messages:
                names = keys.queue_keys(task.queue)
                if task.queue not in queues:
                    pipeline.sadd(keys.QUEUES, task.queue)
                    queues.add(task.queue)
                fields: dict[Any, Any] = {
                    "msg": task.SerializeToString(),
                    "state": "pending",
                    "pending_since": self.clock.now_ns(),
                }
                pipeline.hset(names.task(task.id), mapping=fields)
                pipeline.lpush(names.pending, task.id)
                ids.append(task.id)
            pipeline.execute()
        return ids

    def retry_now(self, queue: str, task_id: str) -> None:
        """Let a task that waits for its next attempt have it now, as the button of a dashboard does."""
        names = keys.queue_keys(queue)
        if self.redis.zrem(names.retry, task_id):
            with self.redis.pipeline(transaction=True) as pipeline:
                pipeline.hset(names.task(task_id), mapping={"state": "pending", "pending_since": self.clock.now_ns()})
                pipeline.lpush(names.pending, task_id)
                pipeline.execute()

    def info(self, queue: str, task_id: str) -> TaskInfo | None:
        """Read one task; None if there is none (any more)."""
        found: dict[bytes, bytes] = self.redis.hgetall(keys.queue_keys(queue).task(task_id))  # type: ignore[assignment]
        if b"msg" not in found:
            return None
        stored = TaskMessage.FromString(found[b"msg"])
        return TaskInfo(task_id, queue, found[b"state"].decode(), stored, found.get(b"result"))


def message(
    queue: str,
    payload: bytes,
    *,
    task_type: str = "",
    task_id: str = "",
    max_retry: int = 3,
    timeout: int = 1800,
    retention: int = DAY,
) -> TaskMessage:
    """A task as the runqy server makes it.

    Args:
        queue: the sub-queue.
        payload: usually JSON.
        task_type: by default the queue's name, as the server does.
        task_id: by default a new one.
        max_retry: retries allowed.
        timeout: seconds it may run.
        retention: seconds it is kept after completion; 0: not at all.
    """
    return TaskMessage(
        type=task_type or queue,
        payload=payload,
        id=task_id or str(uuid.uuid4()),
        queue=queue,
        retry=max_retry,
        timeout=timeout,
        retention=retention,
    )
