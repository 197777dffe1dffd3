"""``runqy-agent health``: one look at a worker, or looks until it is healthy and stays so."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.commands.endpoint import Endpoint, Status, reachable
from runqy_agent.health import NOT_READY_AFTER, STALE_AFTER, UnitState, Verdict, judge

if TYPE_CHECKING:
    from runqy_agent.commands.units import Unit

TOO_MANY_RESTARTS = 3
"""Restarts by systemd while somebody waits: it will not come up."""
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        verdict: what is thought of it.
        status: what the worker said, None if it did not answer.
        unit: what systemd said, None if it was not asked.
    """

    verdict: Verdict
    status: Status | None
    unit: UnitState | None

    def as_json(self) -> dict[str, Any]:
        """``state``, ``reason``, ``restart``, and of which worker: ``worker_id`` and ``version``, "" if unknown."""
        status = self.status or {}
        return {**asdict(self.verdict), **{name: status.get(name, "") for name in ("worker_id", "version")}}


@dataclass(frozen=True)
class Wanted:
    """Which worker is waited for, and how sure one wants to be.

    Attributes:
        seconds: how long to wait.
        samples: how many times in a row it must be found healthy.
        interval: seconds between two of these.
        other_than: the id of a worker that is not the one; "" for none.
        version: the version that it must have; "" for any.
    """

    seconds: float
    samples: int = 3
    interval: float = 2.0
    other_than: str = ""
    version: str = ""

    def problem(self, status: Status | None) -> str:
        """Why this is not the worker, or ""."""
        if status is None:
            return ""
        if status["worker_id"] == self.other_than:
            return "the old worker is still there"
        if self.version and status["version"] != self.version:
            return f"the worker has version {status['version']} instead of {self.version}"
        return ""


class Watcher:
    """Looks at one worker."""

    def __init__(self, endpoint: Endpoint, unit: Unit | None, not_ready_after: float = NOT_READY_AFTER) -> None:
        self._endpoint = endpoint
        self._unit = unit
        self._not_ready_after = not_ready_after

    def look(self) -> Look:
        """Once. Raises RunqyAgentError if systemd was to be asked and cannot be."""
        unit = self._unit.state() if self._unit else None
        status = self._endpoint.status()
        now = time.time()
        redis = _redis_reachable(status, now)
        verdict = judge(status, now=now, unit=unit, not_ready_after=self._not_ready_after, redis_reachable=redis)
        return Look(verdict, status, unit)

    def wait(self, wanted: Wanted) -> tuple[Look, int]:
        """Until the wanted worker is healthy and stays so, or cannot be expected any more.

        Returns:
            The last look, and how many times in a row the worker was found healthy.
        """
        deadline = time.monotonic() + wanted.seconds
        restarts = self._unit.state().restarts if self._unit else 0
        samples = 0
        while True:
            look = self.look()
            problem = wanted.problem(look.status)
            healthy = look.verdict.state == "healthy" and not problem
            samples = samples + 1 if healthy else 0
            if samples >= wanted.samples:
                return look, samples
            if end := self._hopeless(look, restarts, over=time.monotonic() > deadline):
                why = problem or look.verdict.reason
                verdict = Verdict(look.verdict.state if not problem else "not_ready", f"{why}; {end}", restart=False)
                return Look(verdict, look.status, look.unit), samples
            time.sleep(wanted.interval if healthy else min(LOOK_SECONDS, wanted.interval))

    @staticmethod
    def _hopeless(look: Look, restarts: int, *, over: bool) -> str:
        if look.unit is not None:
            if look.unit.active == "failed":
                return "it will not be started again"
            more = look.unit.restarts - restarts
            if more >= TOO_MANY_RESTARTS:
                return f"systemd has restarted it {more} times meanwhile"
        return "the time is over" if over else ""


def _redis_reachable(status: Status | None, now: float) -> bool | None:
    """Worth asking only where the heartbeat does not arrive."""
    if status is None or not status["redis"]["address"]:
        return None
    last = status["redis"]["last_beat"]
    if last is not None and now - last <= STALE_AFTER:
        return None
    return reachable(status["redis"]["address"])
