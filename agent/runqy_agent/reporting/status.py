"""What a worker tells about itself on its host: the status endpoint, systemd and the metrics all draw on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict

from runqy_agent._version import __version__

if TYPE_CHECKING:
    from runqy_agent.broker.presence import Health, Identity, WorkerState
    from runqy_agent.loops.heartbeat import Heartbeat


class ProcessStatus(TypedDict):
    """How the process of one parent queue is. ``since`` is when it came into this state, unix seconds."""

    state: str
    reason: str
    since: float
    commit: str
    consecutive_fails: int
    total_restarts: int


class RedisStatus(TypedDict):
    """How the worker reaches Redis.

    Attributes:
        address: without user and password; "" before it is known.
        last_beat: when Redis took the last heartbeat, unix seconds.
        error: what was wrong with the last attempt, "" for nothing.
    """

    address: str
    last_beat: float | None
    error: str


class Status(TypedDict):
    """The worker, as JSON without a secret. Times are unix seconds.

    Attributes:
        status: as in the heartbeat.
        healthy: whether every parent queue can be served.
        queues: sub-queue to priority.
        running: how many tasks are running.
        tasks: how many have ended how.
        processes: by parent queue.
        config: the path of the configuration; "" for none.
    """

    worker_id: str
    version: str
    pid: int
    host: str
    started_at: float
    status: str
    healthy: bool
    queues: dict[str, int]
    concurrency: int
    running: int
    tasks: dict[str, int]
    processes: dict[str, ProcessStatus]
    redis: RedisStatus
    config: str
    now: float


def describe_worker(
    state: WorkerState, identity: Identity, heartbeat: Heartbeat | None, *, now: float, redis: str, config: str
) -> Status:
    """Put it together.

    Args:
        state: what the heartbeat tells.
        identity: who the worker is.
        heartbeat: None before there is one.
        now: unix seconds.
        redis: the address of Redis, without user and password; "" before it is known.
        config: the path of the configuration; "" for none.
    """
    return {
        "worker_id": identity.worker_id,
        "version": __version__,
        "pid": identity.pid,
        "host": identity.host,
        "started_at": identity.started_at,
        "status": state.status,
        "healthy": state.healthy,
        "queues": dict(state.queues),
        "concurrency": state.concurrency,
        "running": len(list(state.running)),
        "tasks": json.loads(state.tasks),
        "processes": {name: _process(health) for name, health in state.health.items()},
        "redis": {
            "address": redis,
            "last_beat": heartbeat.last_beat if heartbeat else None,
            "error": heartbeat.trouble if heartbeat else "",
        },
        "config": config,
        "now": now,
    }


def _process(health: Health) -> ProcessStatus:
    return {
        "state": health.state,
        "reason": health.reason,
        "since": health.since,
        "commit": health.commit,
        "consecutive_fails": health.consecutive_fails,
        "total_restarts": health.total_restarts,
    }


def in_words(status: Status) -> str:
    """The worker in one line, for ``systemctl status``. Of a reason the first line: the log has the rest."""
    processes = []
    for name, process in status["processes"].items():
        reason = process["reason"].strip().partition("\n")[0]
        processes.append(f"{name} {process['state']}" + (f" ({reason})" if reason else ""))
    return f"{status['status']}: {', '.join(processes)}" if processes else status["status"]
