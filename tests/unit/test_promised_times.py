"""The times that the parts really use. Other tests replace them by shorter ones; here stands why they are as long."""

from __future__ import annotations

import inspect

import pytest

from runqy_agent import health
from runqy_agent.broker import broker, connection, presence
from runqy_agent.loops import deadlines, doubts, forwarder, heartbeat, janitor, leases, loop, recoverer
from runqy_agent.process import child, serving


@pytest.mark.parametrize(
    ("part", "module", "seconds"),
    [
        (forwarder.Forwarder, forwarder, 5.0),
        (recoverer.Recoverer, recoverer, 60.0),
        (heartbeat.Heartbeat, heartbeat, 5.0),
        (janitor.Janitor, janitor, 8.0),
        (leases.Leases, leases, 5.0),
        (deadlines.Deadlines, deadlines, 0.25),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_loop_goes_round_as_often_as_asynqs(part: type, module: object, seconds: float) -> None:
    assert inspect.signature(part).parameters["interval"].default == module.INTERVAL == seconds  # type: ignore[attr-defined]


def test_leases_are_asynqs() -> None:
    assert (broker.LEASE_SECONDS, recoverer.GRACE) == (30, 30.0)


def test_a_lease_outlasts_a_renewal_whose_reply_is_lost() -> None:
    assert leases.RENEW_BELOW < broker.LEASE_SECONDS
    assert leases.RENEW_BELOW - leases.INTERVAL - connection.REPLY_TIMEOUT >= leases.INTERVAL


def test_what_a_lost_reply_has_taken_is_found_at_once_and_later_and_before_its_lease_is_over() -> None:
    first, *others = doubts.CHECKS
    assert first == 0
    assert len(others) >= 3
    assert doubts.CHECKS[-1] + doubts.AGAIN_SECONDS + doubts.LOOK_SECONDS < broker.LEASE_SECONDS


def test_a_missed_beat_does_not_make_a_worker_vanish_and_six_do() -> None:
    assert 2 * heartbeat.INTERVAL <= presence.SERVER_TTL
    assert 6 * heartbeat.INTERVAL == presence.WORKER_TTL == health.STALE_AFTER


def test_a_loop_hangs_only_if_it_takes_longer_than_redis_can_make_it() -> None:
    assert 3 * connection.REPLY_TIMEOUT < loop.HUNG_SECONDS <= 60


def test_archives_are_looked_through_every_five_minutes_or_so() -> None:
    assert 240 <= janitor.INTERVAL * janitor.ARCHIVE_EVERY <= 360


def test_a_process_that_does_not_go_is_gone_long_before_systemd_kills_the_agent() -> None:
    assert serving.HUNG_GRACE + serving.STOP_GRACE + 2 * child.AFTERLIFE <= 15
