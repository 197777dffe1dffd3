"""How a worker is, judged from what it says of itself and from what systemd knows of its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.clock import APART

if TYPE_CHECKING:
    from collections.abc import Mapping

STALE_AFTER = 30.0
"""Seconds after the last heartbeat that Redis took: by then the worker has left the lists of those who look there."""
CRASH_LOOP = 3
"""Restarts by systemd after which a service that is starting once more counts as crashed."""
NOT_READY_AFTER = 120.0
"""Seconds that a worker may take to become ready, unless somebody says otherwise."""


@dataclass(frozen=True)
class Verdict:
    """What is thought of a worker.

    Attributes:
        state: ``healthy``, ``starting``, ``draining``, ``stopped``, ``recovering``, ``not_ready``, ``degraded``,
            ``stale``, ``impaired``, ``unresponsive``, ``crashed`` or ``watchdog``.
        reason: one sentence without a full stop.
        restart: whether a restart is called for.
    """

    state: str
    reason: str
    restart: bool = False

    @property
    def well(self) -> bool:
        """Whether nothing is wrong: it serves, or was told to take nothing."""
        return self.state in {"healthy", "draining"}


@dataclass(frozen=True)
class UnitState:
    """What systemd knows of a unit, in its own words.

    Attributes:
        active: ``active``, ``activating``, ``inactive``, ``failed`` and so on.
        sub: ``running``, ``auto-restart`` and so on.
        result: ``success``, ``exit-code``, ``signal``, ``watchdog``, ``start-limit-hit`` and so on.
        exit_status: of the main process, when it last ended.
        pid: of the main process; 0 is none.
        restarts: how many times systemd has restarted it by itself.
        queued: whether a start or stop of it is about to happen.
    """

    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    exit_status: int = 0
    pid: int = 0
    restarts: int = 0
    queued: bool = False


def judge(
    status: Mapping[str, Any] | None,
    *,
    now: float,
    unit: UnitState | None = None,
    not_ready_after: float = NOT_READY_AFTER,
    redis_reachable: bool | None = None,
) -> Verdict:
    """Judge a worker.

    Args:
        status: what its status endpoint says; None if it does not answer.
        now: unix seconds.
        unit: what systemd says, if it was asked.
        not_ready_after: seconds after which it should be ready.
        redis_reachable: whether its Redis accepts connections from here; None if nobody has tried. Only if it does can
            a restart help a worker whose heartbeat does not arrive.
    """
    if unit is not None:
        if unit.active == "failed":
            return Verdict("starting", "it has failed and is started again") if unit.queued else _failed(unit)
        if unit.active in {"inactive", "deactivating"}:
            return Verdict("stopped", "the service is stopped")
        if unit.active == "activating" and unit.restarts >= CRASH_LOOP:
            # systemd goes on trying, and gives up in the end: a restart from outside would only give it more tries.
            often = f"systemd has restarted it {unit.restarts} times"
            return Verdict("crashed", f"it does not come up; {often}, it last ended with {unit.exit_status}")
        if status is None:
            return _silent(unit)
    if status is None:
        return Verdict("unresponsive", "the status endpoint does not answer", restart=True)
    return _judge_status(status, now, not_ready_after, redis_reachable=redis_reachable)


def _failed(unit: UnitState) -> Verdict:
    if unit.result == "watchdog":
        return Verdict("watchdog", "the watchdog has killed it: it did not move any more", restart=True)
    ended = {"exit-code": f"exit code {unit.exit_status}", "signal": f"signal {unit.exit_status}"}
    return Verdict("crashed", f"the service has failed ({ended.get(unit.result, unit.result)})", restart=True)


def _silent(unit: UnitState) -> Verdict:
    if unit.active != "active":
        waiting = f", after it ended with {unit.exit_status}" if unit.sub == "auto-restart" else ""
        return Verdict("starting", f"the service is {unit.active} ({unit.sub}){waiting}")
    return Verdict("unresponsive", "the service is active, but its status endpoint does not answer", restart=True)


def _judge_status(
    status: Mapping[str, Any], now: float, not_ready_after: float, *, redis_reachable: bool | None
) -> Verdict:
    processes: Mapping[str, Mapping[str, Any]] = status["processes"]
    degraded = [_because(name, process) for name, process in processes.items() if process["state"] == "degraded"]
    if degraded:
        return Verdict("degraded", f"given up: {'; '.join(degraded)}", restart=True)
    if status["status"] == "bootstrapping":
        return _starting(now - status["started_at"], not_ready_after)
    if status["status"] == "stopped":
        return Verdict("stopped", "the worker has stopped")
    if beat_overdue(status, now):
        return _stale(status["redis"], now, reachable=redis_reachable)
    waiting = {name: process for name, process in processes.items() if process["state"] != "ready"}
    if waiting:
        reason = "; ".join(_because(name, process) for name, process in waiting.items())
        if any(now - process["since"] > not_ready_after for process in waiting.values()):
            return Verdict("not_ready", f"not ready for more than {not_ready_after:g} s: {reason}", restart=True)
        return Verdict("recovering", reason)
    return _serving(status)


def _serving(status: Mapping[str, Any]) -> Verdict:
    if trouble := status["redis"].get("trouble"):  # an older agent does not tell
        reasons = "; ".join(f"{what} ({text})" for what, text in trouble.items())
        return Verdict("impaired", f"Redis lets it do only a part of its work: {reasons}")
    if status["status"] == "draining":
        return Verdict("draining", f"it takes no tasks; {status['running']} are running")
    remark = clock_remark(status)
    return Verdict("healthy", f"serving {', '.join(status['queues'])}" + (f"; {remark}" if remark else ""))


def clock_remark(status: Mapping[str, Any]) -> str:
    """That the host's clock is wrong, or that of Redis; "" if they agree, and of a worker that does not tell."""
    offset = status.get("clock_offset") or 0.0
    side = "ahead of" if offset > 0 else "behind"
    return f"the clock of this host is {abs(offset):.0f} s {side} that of Redis" if abs(offset) > APART else ""


def beat_overdue(status: Mapping[str, Any], now: float) -> bool:
    """Whether no heartbeat has reached Redis for too long; one that has never beaten counts from its start."""
    last_beat = status["redis"]["last_beat"]
    return bool(now - (status["started_at"] if last_beat is None else last_beat) > STALE_AFTER)


def _because(name: str, process: Mapping[str, Any]) -> str:
    reason = process["reason"]
    return f"{name} is {process['state']}" + (f" ({reason})" if reason else "")


def _starting(age: float, not_ready_after: float) -> Verdict:
    if age > not_ready_after:
        return Verdict("not_ready", f"still starting after {age:.0f} s", restart=True)
    return Verdict("starting", f"starting for {age:.0f} s")


def _stale(redis: Mapping[str, Any], now: float, *, reachable: bool | None) -> Verdict:
    last = redis["last_beat"]
    reason = "no heartbeat of it has reached Redis"
    if last is not None:
        reason = f"its last heartbeat reached Redis {now - last:.0f} s ago"
    if redis["error"]:
        reason += f" ({redis['error']})"
    if reachable is False:
        where = redis["address"] or "Redis"
        reason += f"; {where} cannot be reached from this host, so a restart would not help"
    return Verdict("stale", reason, restart=reachable is True)
