"""What a worker tells about itself on its host: the status endpoint, systemd and the metrics all draw on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, TypedDict

from runqy_agent._version import __version__
from runqy_agent.health import clock_remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from runqy_agent.broker.presence import Health, Identity, WorkerState
    from runqy_agent.clock import Clock
    from runqy_agent.in_service import Progress
    from runqy_agent.loops.heartbeat import Heartbeat
    from runqy_agent.loops.loop import Loop


SHORT = 12
"""As many digits of a commit are shown to people."""


class ProcessStatus(TypedDict):
    """How the processes of one parent queue are. Times are unix seconds.

    Attributes:
        since: when they came into this state.
        retry_at: when one is started again; 0 if none waits for that.
        commit: which commit of the author's code serves; "" where the code is not the agent's to deploy.
        stale: whether that is not the one that should.
        wanted: the one that should; "" if that is not known, or if all is well.
        stale_reason: why it does not.
        dropped_responses: answers to tasks that were not in flight.
        processes: each with ``pid``, ``state``, ``reason``, ``tasks``, ``memory``, ``restarts`` and ``gpu``; see
            ``ProcessHealth``.
    """

    state: str
    reason: str
    since: float
    retry_at: float
    commit: str
    stale: bool
    wanted: str
    stale_reason: str
    consecutive_fails: int
    total_restarts: int
    dropped_responses: int
    processes: Sequence[Mapping[str, Any]]


class RedeployStatus(TypedDict):
    """How redeploying goes.

    Attributes:
        number: how many have been begun since the start of the worker.
        running: whether one is under way.
        at: when the last one ended, unix seconds; 0 before that.
        results: of the last one, by parent queue: ``outcome`` (``switched``, ``unchanged`` or ``failed``), ``commit``
            (which serves), and ``reason`` ("" if that is the one that should).
        restart: what the last one has found changed that only a restart brings into effect; one text for each.
    """

    number: int
    running: bool
    at: float
    results: dict[str, dict[str, str]]
    restart: list[str]


class RedisStatus(TypedDict):
    """How the worker reaches Redis.

    Attributes:
        address: without user and password; "" before it is known.
        last_beat: when Redis took the last heartbeat, unix seconds.
        error: what was wrong with the last attempt, "" for nothing.
        fallbacks: what the worker does without, because this Redis does not have or permit it; a sentence for each.
        trouble: what has not worked for more than a minute, a loop or one queue of it, and why.
    """

    address: str
    last_beat: float | None
    error: str
    fallbacks: list[str]
    trouble: dict[str, str]


class Status(TypedDict):
    """The worker, as JSON without a secret. Times are unix seconds, as the host's clock counts them now.

    Attributes:
        status: as in the heartbeat.
        healthy: whether every parent queue can be served.
        queues: sub-queue to priority.
        running: how many tasks are running.
        tasks: how many have ended how.
        processes: by parent queue.
        redeploy: None where there is nothing to deploy, or not yet.
        clock_offset: seconds by which the host's clock is ahead of Redis'; None if that is not known.
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
    redeploy: RedeployStatus | None
    redis: RedisStatus
    clock_offset: float | None
    config: str
    now: float


def redis_status(
    address: object,
    heartbeat: Heartbeat | None,
    fallbacks: Sequence[str],
    loops: Iterable[Loop],
    *,
    shown: Callable[[float], float],
) -> RedisStatus:
    """How the worker reaches Redis.

    Args:
        address: whose text names no user and no password; None before it is known.
        heartbeat: None before there is one.
        fallbacks: what the worker does without; a sentence for each.
        loops: all that may be in trouble.
        shown: turns times of the monotonic clock into those that people read.
    """
    last_beat = heartbeat.last_beat if heartbeat else None
    return {
        "address": str(address or ""),
        "last_beat": None if last_beat is None else shown(last_beat),
        "error": heartbeat.trouble if heartbeat else "",
        "fallbacks": list(fallbacks),
        "trouble": {what: text for loop in loops for what, text in loop.troubles.lasting.items()},
    }


def describe_worker(
    state: WorkerState,
    identity: Identity,
    progress: Progress | None,
    redis: RedisStatus,
    *,
    clock: Clock,
    config: str,
) -> Status:
    """Put it together.

    Args:
        state: what the heartbeat tells.
        identity: who the worker is.
        progress: of redeploying; None where there is nothing to deploy.
        redis: from ``redis_status``.
        clock: to tell when things were.
        config: the path of the configuration; "" for none.
    """
    shown = clock.shown
    return {
        "worker_id": identity.worker_id,
        "version": __version__,
        "pid": identity.pid,
        "host": identity.host,
        "started_at": round(shown(identity.started_at)),  # the same each time
        "status": state.status,
        "healthy": state.healthy,
        "queues": dict(state.queues),
        "concurrency": state.concurrency,
        "running": len(list(state.running)),
        "tasks": json.loads(state.tasks),
        "processes": {name: _process(health, shown) for name, health in state.health.items()},
        "redeploy": _redeploy(progress, shown) if progress else None,
        "redis": redis,
        "clock_offset": state.clock_offset,
        "config": config,
        "now": clock.wall(),
    }


def _process(health: Health, shown: Callable[[float], float]) -> ProcessStatus:
    return {
        "state": health.state,
        "reason": health.reason,
        "since": shown(health.since),
        "retry_at": shown(health.retry_at) if health.retry_at else 0.0,
        "commit": health.commit,
        "stale": health.stale,
        "wanted": health.wanted,
        "stale_reason": health.stale_reason,
        "consecutive_fails": health.consecutive_fails,
        "total_restarts": health.total_restarts,
        "dropped_responses": health.dropped_responses,
        "processes": health.processes,
    }


def _redeploy(progress: Progress, shown: Callable[[float], float]) -> RedeployStatus:
    results = {name: asdict(result) for name, result in progress.results.items()}
    return {
        "number": progress.number,
        "running": progress.running,
        "at": shown(progress.at) if progress.at else 0.0,
        "results": results,
        "restart": list(progress.restart),
    }


def in_words(status: Status) -> str:
    """The worker in one line, for ``systemctl status``. Of a reason the first line: the log has the rest."""
    word = status["status"]
    if status["redeploy"] and status["redeploy"]["running"]:
        word += ", redeploying"
    if status["redeploy"] and status["redeploy"]["restart"]:
        word += ", to be restarted"
    processes = [_in_words(name, process) for name, process in status["processes"].items()]
    remark = clock_remark(status)
    words = f"{word}: {', '.join(processes)}" if processes else word
    return f"{words}; {remark}" if remark else words


def _in_words(name: str, process: ProcessStatus) -> str:
    remarks = [_first_line(process["reason"])] if process["reason"].strip() else []
    if process["stale"]:
        instead = f" instead of {process['wanted'][:SHORT]}" if process["wanted"] else ""
        reason = _first_line(process["stale_reason"])
        remarks.append(f"stale: commit {process['commit'][:SHORT]} serves{instead}: {reason}")
    return f"{name} {process['state']}" + (f" ({'; '.join(remarks)})" if remarks else "")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
