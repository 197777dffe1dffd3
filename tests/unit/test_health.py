"""What is thought of a worker, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from commands_kit import process, worker_status
from runqy_agent.health import UnitState, Verdict, judge

NOW = 1_000_000.0
ACTIVE = UnitState("active", "running", pid=7)


def verdict(unit: UnitState | None = ACTIVE, *, reachable: bool | None = None, **status: Any) -> Verdict:
    return judge(worker_status(now=NOW, **status), now=NOW, unit=unit, redis_reachable=reachable)


def silent(unit: UnitState | None) -> Verdict:
    return judge(None, now=NOW, unit=unit)


@pytest.mark.parametrize("unit", [None, ACTIVE])
def test_a_worker_whose_processes_are_ready_is_healthy(unit: UnitState | None) -> None:
    assert verdict(unit) == Verdict("healthy", "serving inference.high", restart=False)
    assert verdict(unit).well


def test_one_that_was_told_to_take_nothing_is_draining_and_well() -> None:
    found = verdict(status="draining", running=3)
    assert found == Verdict("draining", "it takes no tasks; 3 are running", restart=False)
    assert found.well


def test_a_process_that_was_given_up_calls_for_a_restart_whatever_else_is_the_case() -> None:
    processes = {"inference": process("degraded", reason="exited with code 3"), "other": process()}
    expected = Verdict("degraded", "given up: inference is degraded (exited with code 3)", restart=True)
    assert verdict(processes=processes) == expected
    assert verdict(processes=processes, status="draining") == expected
    assert verdict(processes=processes, redis={"last_beat": None}) == expected


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (119.0, Verdict("starting", "starting for 119 s", restart=False)),
        (121.0, Verdict("not_ready", "still starting after 121 s", restart=True)),
    ],
)
def test_the_start_may_take_its_time_but_no_longer(age: float, expected: Verdict) -> None:
    assert verdict(status="bootstrapping", started_at=NOW - age, processes={}, redis={"last_beat": None}) == expected
    assert not expected.well


def test_how_long_it_may_take_is_for_the_one_who_asks_to_say() -> None:
    status = worker_status(now=NOW, status="bootstrapping", started_at=NOW - 30)
    assert judge(status, now=NOW, not_ready_after=20).state == "not_ready"
    assert judge(status, now=NOW, not_ready_after=40).state == "starting"


@pytest.mark.parametrize("state", ["starting", "recovering"])
def test_a_process_that_is_not_ready_is_waited_for_until_it_takes_too_long(state: str) -> None:
    young = verdict(processes={"inference": process(state, since=NOW - 119, reason="exited with code 1")})
    assert young == Verdict("recovering", f"inference is {state} (exited with code 1)", restart=False)
    old = verdict(processes={"inference": process(state, since=NOW - 121)})
    assert old == Verdict("not_ready", f"not ready for more than 120 s: inference is {state}", restart=True)


@pytest.mark.parametrize(("ago", "state"), [(29.0, "healthy"), (31.0, "stale")])
def test_a_worker_that_redis_has_not_heard_of_for_half_a_minute_is_stale(ago: float, state: str) -> None:
    assert verdict(redis={"last_beat": NOW - ago}, reachable=True).state == state


def test_a_stale_worker_is_restarted_only_if_redis_can_be_reached_from_its_host() -> None:
    redis = {"last_beat": NOW - 40, "error": "timed out", "address": "redis:6379/0"}
    told = "its last heartbeat reached Redis 40 s ago (timed out)"
    assert verdict(redis=redis, reachable=True) == Verdict("stale", told, restart=True)
    away = f"{told}; redis:6379/0 cannot be reached from this host, so a restart would not help"
    assert verdict(redis=redis, reachable=False) == Verdict("stale", away, restart=False)
    assert verdict(redis=redis, reachable=None) == Verdict("stale", told, restart=False)


def test_a_worker_that_has_just_started_owes_no_heartbeat_yet() -> None:
    assert verdict(redis={"last_beat": None}, started_at=NOW - 29).state == "healthy"
    late = verdict(redis={"last_beat": None}, started_at=NOW - 31, reachable=True)
    assert late == Verdict("stale", "no heartbeat of it has reached Redis", restart=True)


def test_a_worker_that_says_nothing_though_its_unit_is_active_is_unresponsive() -> None:
    expected = Verdict("unresponsive", "the service is active, but its status endpoint does not answer", restart=True)
    assert silent(ACTIVE) == expected
    assert silent(None).state == "unresponsive"


@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        (UnitState("activating", "start"), "the service is activating (start)"),
        (
            UnitState("activating", "auto-restart", result="exit-code", exit_status=3, restarts=2),
            "the service is activating (auto-restart), after it ended with 3",
        ),
        (UnitState("failed", "failed", queued=True), "it has failed and is started again"),
    ],
)
def test_one_that_systemd_is_about_to_start_is_starting(unit: UnitState, reason: str) -> None:
    assert silent(unit) == Verdict("starting", reason, restart=False)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (
            UnitState("failed", "failed", "exit-code", exit_status=5),
            Verdict("crashed", "the service has failed (exit code 5)", restart=True),
        ),
        (
            UnitState("failed", "failed", "signal", exit_status=9),
            Verdict("crashed", "the service has failed (signal 9)", restart=True),
        ),
        (
            UnitState("failed", "failed", "start-limit-hit"),
            Verdict("crashed", "the service has failed (start-limit-hit)", restart=True),
        ),
        (
            UnitState("failed", "failed", "watchdog", exit_status=6),
            Verdict("watchdog", "the watchdog has killed it: it did not move any more", restart=True),
        ),
    ],
)
def test_a_failed_unit_has_crashed_or_was_killed_by_the_watchdog(unit: UnitState, expected: Verdict) -> None:
    assert silent(unit) == expected
    assert verdict(unit) == expected, "whoever answers in its place"


@pytest.mark.parametrize("active", ["inactive", "deactivating"])
def test_one_that_somebody_has_stopped_stays_stopped(active: str) -> None:
    expected = Verdict("stopped", "the service is stopped", restart=False)
    assert silent(UnitState(active)) == expected
    assert verdict(UnitState(active)) == expected
    assert verdict(status="stopped").state == "stopped"
    assert not expected.well


@pytest.mark.parametrize("status", [None, {"status": "bootstrapping"}])
def test_a_service_that_systemd_restarts_again_and_again_has_crashed_and_gets_no_more_tries_from_us(
    status: dict[str, Any] | None,
) -> None:
    unit = UnitState("activating", "auto-restart", exit_status=5, restarts=3)
    verdict = judge(status, now=NOW, unit=unit)
    assert (verdict.state, verdict.restart) == ("crashed", False)
    assert verdict.reason == "it does not come up; systemd has restarted it 3 times, it last ended with 5"
