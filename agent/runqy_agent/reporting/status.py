"""What a worker tells about itself on its host: the status endpoint, systemd and the metrics all draw on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runqy_agent._version import __version__

if TYPE_CHECKING:
    from runqy_agent.broker.presence import Health, Identity, WorkerState
    from runqy_agent.loops.heartbeat import Heartbeat

Status = dict[str, Any]
"""JSON without a secret: ``worker_id``, ``version``, ``pid``, ``host``, ``started_at`` and ``now`` (unix seconds),
``status`` as in the heartbeat, ``healthy``, ``queues`` (name to priority), ``concurrency``, ``running``, ``tasks`` (how
many ended how), ``processes`` (parent queue to ``state``, ``reason``, ``since``, ``commit``, ``consecutive_fails`` and
``total_restarts``), ``redis`` (``address``, ``last_beat``, ``error``) and ``config``, the path of the configuration.
"""


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


def _process(health: Health) -> dict[str, Any]:
    names = ("state", "reason", "since", "commit", "consecutive_fails", "total_restarts")
    return {name: getattr(health, name) for name in names}


def in_words(status: Status) -> str:
    """The worker in one line, for ``systemctl status``."""
    processes = [
        f"{name} {process['state']}" + (f" ({process['reason']})" if process["reason"] else "")
        for name, process in status["processes"].items()
    ]
    return f"{status['status']}: {', '.join(processes)}" if processes else status["status"]
