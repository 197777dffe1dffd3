"""The clock that is kept at Redis' clock: what it learns from replies, and from which it lets itself not be misled."""

from __future__ import annotations

import time

import pytest

from runqy_agent.clock import Clock, monotonic

HOUR = 3600.0
REDIS = 1_800_000_000.0
"""What Redis' clock says when the monotonic one says 0."""


def learned(*samples: tuple[float, float, float]) -> tuple[Clock, list[float]]:
    """A clock that was told these, and by how much it found Redis' clock set each time.

    Each is: when it was asked, when the reply came, when Redis read its clock; in seconds of the monotonic clock.
    """
    clock = Clock()
    return clock, [clock.learn(sent, received, REDIS + read) for sent, received, read in samples]


def test_until_it_has_learned_it_takes_redis_clock_for_the_hosts() -> None:
    clock = Clock()
    assert clock.now() == pytest.approx(time.time(), abs=1.0)
    assert clock.ahead() == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize("hosts", [REDIS, REDIS + 300, REDIS - 300, 0.0])
def test_the_first_reply_counts_whatever_the_hosts_clock_says(hosts: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: hosts)
    clock, set_by = learned((10.0, 10.002, 10.001))
    assert clock.offset == pytest.approx(REDIS, abs=0.001)
    assert set_by == [0.0]
    assert clock.set_at == float("-inf")


def test_a_slow_reply_moves_nothing_that_a_fast_one_has_told() -> None:
    clock, set_by = learned((10.0, 10.002, 10.001), (15.0, 25.0, 15.5), (30.0, 39.0, 38.0))
    assert clock.offset == pytest.approx(REDIS, abs=0.001)
    assert set_by == [0.0, 0.0, 0.0]


def test_a_fast_reply_puts_right_what_a_slow_one_has_told() -> None:
    clock, _ = learned((10.0, 20.0, 10.0))
    assert clock.offset == REDIS - 5.0  # the middle of what is possible
    assert clock.learn(21.0, 21.002, REDIS + 21.001) == 0.0  # nobody has set a clock
    assert clock.offset == pytest.approx(REDIS, abs=0.02)


@pytest.mark.parametrize("by", [HOUR, -HOUR, 300.0, -300.0])
def test_it_notices_that_redis_clock_was_set_and_when(by: float) -> None:
    clock, _ = learned((10.0, 10.002, 10.001))
    assert clock.learn(15.0, 15.002, REDIS + by + 15.001) == pytest.approx(by, abs=0.01)
    assert clock.offset == pytest.approx(REDIS + by, abs=0.001)
    assert clock.set_at == 15.002
    assert clock.learn(20.0, 20.002, REDIS + by + 20.001) == 0.0
    assert clock.set_at == 15.002


def test_a_small_correction_is_followed_and_not_taken_for_a_set_clock() -> None:
    clock, _ = learned((10.0, 10.002, 10.001))
    assert clock.learn(15.0, 15.002, REDIS + 1.0 + 15.001) == pytest.approx(1.0, abs=0.01)
    assert clock.offset == pytest.approx(REDIS + 1.0, abs=0.001)
    assert clock.set_at == float("-inf")


@pytest.mark.parametrize("ppm", [500, -500])
def test_it_follows_a_clock_that_runs_faster_or_slower(ppm: int) -> None:
    clock = Clock()
    for at in range(0, 36_000, 5):
        told = REDIS + at * (1 + ppm / 1e6)
        assert clock.learn(at, at + 0.002, told + 0.001) == 0.0  # nobody has set it
        assert clock.offset + at == pytest.approx(told, abs=0.05)
    assert clock.set_at == float("-inf")


def test_the_offset_stays_the_same_while_nothing_contradicts_it() -> None:
    clock, _ = learned((10.0, 10.004, 10.002))
    before = clock.offset
    for at in range(15, 300, 5):
        clock.learn(at, at + 0.004, REDIS + at + 0.0025)
    assert clock.offset == before


def test_the_three_clocks_agree_with_each_other() -> None:
    clock, _ = learned((monotonic(), monotonic() + 0.001, monotonic()))
    assert clock.now() - clock.monotonic() == pytest.approx(clock.offset, abs=0.5)
    assert clock.now_ns() / 1e9 == pytest.approx(clock.now(), abs=0.5)
    assert clock.ahead() == pytest.approx(time.time() - clock.now(), abs=0.5)
    assert clock.shown(clock.monotonic()) == pytest.approx(time.time(), abs=0.5)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_setting_the_hosts_clock_moves_only_what_is_shown_to_people(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    now, moment = clock.now(), clock.monotonic()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + step)
    assert clock.now() == pytest.approx(now, abs=1.0)
    assert clock.now_ns() == pytest.approx(now * 1e9, abs=1e9)
    assert clock.monotonic() == pytest.approx(moment, abs=1.0)
    assert clock.ahead() == pytest.approx(step, abs=1.0)
    assert clock.shown(moment) == pytest.approx(now + step, abs=1.0)


def test_it_goes_on_while_the_host_is_suspended() -> None:
    # So do the leases in Redis. Nothing here can suspend a host: this is the clock that does.
    assert monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
