"""Names of the Redis keys of asynq 0.26 and of the runqy server. Nobody else writes a key's name.

Every key of a queue carries the hash tag ``{queue}``, so all keys of one script share a slot on Redis Cluster. The keys
of the flat layout have no tag; they are those of runqy's first worker, and what it lacked by the same pattern.
"""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cache, lru_cache
from typing import Literal

Layout = Literal["asynq", "flat"]
"""How the keys are laid out."""

QUEUES = "asynq:queues"
SERVERS = "asynq:servers"
WORKERS = "asynq:workers"
WORKER_PREFIX = "asynq:workers:"
CANCEL = "asynq:cancel"
"""The channel on which clients publish the ids of tasks to be cancelled."""

# Not part of asynq's layout: the runqy server finds tasks and results by id alone under these. In the flat layout the
# tasks themselves are there.
LOOKUP_PREFIX = "asynq:t:"
RESULT_PREFIX = "asynq:result:"


class QueueKeys:
    """The keys of one queue.

    Attributes:
        active: a list; in the flat layout a sorted set, which holds the leases too.
        lease: a sorted set; in the flat layout the same key as ``active``.
        task_prefix: a task's hash is this followed by its id.
        group_prefix: a group's sorted set is this followed by the group's name; empty where there are no groups.
        prefix: what all keys of the queue begin with.
        probe: a key of no meaning, to try commands on.
    """

    def __init__(self, queue: str, layout: Layout = "asynq") -> None:
        flat = layout == "flat"
        base = f"asynq:{queue}:" if flat else f"asynq:{{{queue}}}:"
        self.queue = queue
        self.prefix = base
        self.pending = base + "pending"
        self.active = base + "active"
        self.lease = self.active if flat else base + "lease"
        self.paused = base + "paused"
        self.scheduled = base + "scheduled"
        self.retry = base + "retry"
        self.archived = base + "archived"
        self.completed = base + "completed"
        self.processed = base + "processed"
        self.failed = base + "failed"
        self.task_prefix = LOOKUP_PREFIX if flat else base + "t:"
        self.group_prefix = "" if flat else base + "g:"
        self.probe = base + "probe"

    def task(self, task_id: str) -> str:
        """The hash of one task."""
        return self.task_prefix + task_id

    def exchange(self, day: str) -> list[str]:
        """KEYS of ``exchange.lua`` for one UTC day (``2026-11-24``)."""
        return [
            self.pending,
            self.active,
            self.lease,
            self.paused,
            self.processed,
            f"{self.processed}:{day}",
            self.failed,
            f"{self.failed}:{day}",
            self.completed,
            self.retry,
            self.archived,
        ]


@cache
def queue_keys(queue: str, layout: Layout = "asynq") -> QueueKeys:
    """The keys of a queue, made once."""
    return QueueKeys(queue, layout)


def utc_day(now: float) -> str:
    """The UTC day that daily counters are kept under, as ``YYYY-MM-DD``."""
    return _day(int(now) // 86400)


@lru_cache(maxsize=4)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86400, tz=timezone.utc).strftime("%Y-%m-%d")


def watch_slots(layout: Layout = "asynq") -> str:
    """The hash that says which workers watch which queue; see watch.py. It expires by itself.

    Not part of asynq's layout. All keys about watching share one slot of a cluster, whatever queues they are about.
    """
    return _watch(layout) + "slots"


def watcher_alive(who: str, layout: Layout = "asynq") -> str:
    """The key that exists while a watcher does."""
    return f"{_watch(layout)}alive:{who}"


def wakeup(queue: str, layout: Layout = "asynq") -> str:
    """The list that workers wait on which do not watch a queue."""
    return f"{_watch(layout)}wakeup:{queue}"


def _watch(layout: Layout) -> str:
    return "asynq:watch:" if layout == "flat" else "asynq:{watch}:"


def server(instance: str) -> str:
    """The ServerInfo of one worker process; ``instance`` is ``host:pid:uuid``."""
    return f"asynq:servers:{{{instance}}}"


def active_workers(instance: str) -> str:
    """The WorkerInfo hash of one worker process.

    asynq finds it through the sorted set ``asynq:workers``, whatever its name is. asynq itself would call it
    ``asynq:workers:{…}``, which the runqy server's scan would take for one more worker.
    """
    return f"asynq:active-workers:{{{instance}}}"


def worker(worker_id: str) -> str:
    """The hash by which the runqy server knows a worker."""
    return WORKER_PREFIX + worker_id


def worker_output(worker_id: str) -> str:
    """The list of what the processes of a worker have printed. It is no hash, so the server's scan passes it over."""
    return worker(worker_id) + ":logs"
