"""The tasks of the soak: of every kind, and what is to become of each."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos.journal import GONE
from runqy_agent.broker import keys
from runqy_agent.demo.client import DAY, TaskClient, message

if TYPE_CHECKING:
    import random

    import redis

    from runqy_agent.broker.asynq_pb2 import TaskMessage

SERVED = {"serve.high": 9, "serve.low": 3}
"""The sub-queues whose tasks go to a process that lasts, with their priorities."""
SINGLE = "single.default"
"""The sub-queue whose tasks get a process each."""
QUEUES = (*SERVED, SINGLE)

KINDS = {
    "quick": 70,
    "slow": 4,
    "gone": 5,
    "fails": 5,
    "retry": 5,
    "unique": 5,
    "later": 4,
    "cancelled": 0.5,
    "flood": 0.5,
    "big": 0.5,
    "crash": 0.5,
    "hang": 0.2,
}
"""How often each kind is drawn.

``gone`` is not kept when it is done; ``later`` is scheduled; ``cancelled`` is published to ``asynq:cancel`` while it
runs; ``hang`` has a deadline, and no retries.
"""
ENDS = {"fails": "archived", "hang": "archived", "gone": GONE}
"""The state in which a kind ends, where it is not ``completed``."""
BACKLOG = 200
"""How many tasks wait or run at most."""
BATCH = 50
SINGLE_SHARE = 0.03
"""Of the tasks are for processes of their own, which cost most of the processor's time."""
SECONDS_AHEAD = 2
PAUSE = 0.05


@dataclass
class Load:
    """Keeps the queues filled, and does what people do with tasks: cancels them, and has them tried again now.

    Attributes:
        redis: reached without trouble, but as frozen as it is.
        kinds: task id to its kind.
        queue_of: task id to its queue.
        cancels: how often each task was cancelled.
    """

    redis: redis.Redis
    chance: random.Random
    kinds: dict[str, str] = field(default_factory=dict)
    queue_of: dict[str, str] = field(default_factory=dict)
    cancels: Counter[str] = field(default_factory=Counter)
    _to_cancel: deque[tuple[float, str]] = field(default_factory=deque)

    def turn(self, *, more: bool) -> None:
        """Do what is due now."""
        if more and self.unfinished() < BACKLOG:
            for _ in range(BATCH):
                self._enqueue()
        self.bring_forward()
        while self._to_cancel and self._to_cancel[0][0] <= time.monotonic():
            _, task_id = self._to_cancel.popleft()
            if self._is_active(task_id):
                self.cancels[task_id] += 1
                self.redis.publish("asynq:cancel", task_id)
            elif self._is_unfinished(task_id):
                self._to_cancel.append((time.monotonic() + PAUSE, task_id))
        time.sleep(PAUSE)

    def unfinished(self) -> int:
        """How many tasks have not ended."""
        with self.redis.pipeline(transaction=True) as pipeline:
            for queue in QUEUES:
                names = keys.queue_keys(queue)
                for part in (names.pending, names.active):
                    pipeline.llen(part)
                for part in (names.scheduled, names.retry):
                    pipeline.zcard(part)
            return int(sum(pipeline.execute()))

    def bring_forward(self) -> None:
        """Let every task that waits for its next attempt be due now."""
        for queue in QUEUES:
            retry = keys.queue_keys(queue).retry
            waiting: Any = self.redis.zrangebyscore(retry, time.time(), "+inf")
            if waiting:
                self.redis.zadd(retry, dict.fromkeys(waiting, time.time() - 1), xx=True)

    def _is_active(self, task_id: str) -> bool:
        return bool(self._state(task_id) == b"active")

    def _is_unfinished(self, task_id: str) -> bool:
        return self._state(task_id) in {b"pending", b"active", b"retry"}

    def _state(self, task_id: str) -> Any:
        return self.redis.hget(keys.queue_keys(self.queue_of[task_id]).task(task_id), "state")

    def _enqueue(self) -> None:
        single = self.chance.random() < SINGLE_SHARE
        queue = SINGLE if single else self.chance.choice(list(SERVED))
        (kind,) = self.chance.choices(list(KINDS), list(KINDS.values()))
        payload: dict[str, Any] = {"kind": kind, "salt": self.chance.getrandbits(64)}
        if kind == "slow":
            payload["ms"] = self.chance.randrange(50, 400)
        elif kind == "cancelled":
            payload["ms"] = 1500
        elif kind == "big":
            payload["text"] = "x" * self.chance.randrange(100_000, 400_000)
        # Retries in plenty: however often its worker dies, no task may be archived for that.
        task = message(
            queue,
            json.dumps(payload).encode(),
            max_retry=0 if kind == "hang" else 50,
            timeout=1 if kind == "hang" else 1800,
            retention=0 if kind == "gone" else DAY,
        )
        self.kinds[task.id], self.queue_of[task.id] = kind, queue
        if kind == "cancelled":
            self._to_cancel.append((time.monotonic(), task.id))
        if kind == "unique":
            digest = hashlib.md5(task.payload, usedforsecurity=False).hexdigest()
            task.unique_key = f"asynq:{{{queue}}}:unique:{task.type}:{digest}"
            assert self.redis.set(task.unique_key, task.id, nx=True, ex=DAY)
        if kind == "later":
            self._schedule(task)
        else:
            TaskClient(self.redis).enqueue_all([task])

    def _schedule(self, task: TaskMessage) -> None:
        names = keys.queue_keys(task.queue)
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.sadd(keys.QUEUES, task.queue)
            pipeline.hset(names.task(task.id), mapping={"msg": task.SerializeToString(), "state": "scheduled"})
            pipeline.zadd(names.scheduled, {task.id: time.time() + self.chance.uniform(0, SECONDS_AHEAD)})
            pipeline.execute()
