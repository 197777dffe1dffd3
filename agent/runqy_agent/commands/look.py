"""``runqy-agent health``: one look at a worker, or looks until it is healthy and stays so."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.commands.endpoint import ANSWER_SECONDS, reachable
from runqy_agent.health import NOT_READY_AFTER, UnitState, Verdict, beat_overdue, judge

if TYPE_CHECKING:
    from runqy_agent.commands.endpoint import Endpoint, Status
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
        """Once, though one whose service is active is unresponsive only after some seconds without an answer.

        Raises:
            RunqyAgentError: systemd was to be asked and cannot be, or as ``Endpoint.status`` does.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            look = self._glance()
            if look.verdict.state != "unresponsive" or look.unit is None or time.monotonic() > deadline:
                return look
            time.sleep(min(LOOK_SECONDS, ANSWER_SECONDS))

    def _glance(self) -> Look:
        unit = self._unit.state() if self._unit else None
        status = self._endpoint.status()
        # What a worker says of times is to be held against its own clock: the host's may have been set meanwhile.
        now = status["now"] if status else time.time()
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
            look = self._glance()
            if look.unit is not None:
                restarts = min(restarts, look.unit.restarts)  # systemd counts anew after a restart by hand
            problem = wanted.problem(look.status)
            healthy = look.verdict.state == "healthy" and not problem
            samples = samples + 1 if healthy else 0
            if samples >= wanted.samples:
                return look, samples
            if wanted.other_than and not problem and look.verdict.state == "degraded":
                end = "a new worker that is degraded does not get better"
            else:
                end = self._end(look, restarts, samples, over=time.monotonic() > deadline)
            if end:
                why = problem or look.verdict.reason
                state = "not_ready" if problem or healthy else look.verdict.state
                return Look(Verdict(state, f"{why}; {end}"), look.status, look.unit), samples
            time.sleep(wanted.interval if healthy else min(LOOK_SECONDS, wanted.interval))

    @staticmethod
    def _end(look: Look, restarts: int, samples: int, *, over: bool) -> str:
        """Why there is no point in waiting any longer, or ""."""
        if look.unit is not None:
            if look.unit.active == "failed" and not look.unit.queued:
                return "it will not be started again"
            more = look.unit.restarts - restarts
            if more >= TOO_MANY_RESTARTS:
                return f"systemd has restarted it {more} times meanwhile"
        found = f" after it was found healthy {samples} times in a row" if samples else ""
        return f"the time is over{found}" if over else ""


def _redis_reachable(status: Status | None, now: float) -> bool | None:
    """Worth asking only where the heartbeat does not arrive."""
    if status is None or not status["redis"]["address"]:
        return None
    return reachable(status["redis"]["address"]) if beat_overdue(status, now) else None
