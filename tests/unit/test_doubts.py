"""Exchanges whose reply was lost are looked for several times, for Redis may carry them out late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from runqy_agent.broker.broker import LEASE_SECONDS
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.settle import Settled
from runqy_agent.loops import doubts as doubts_module
from runqy_agent.loops.doubts import AGAIN_SECONDS, CHECKS, Doubts
from task_kit import taken

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask

LEASE = 1000.25


class Late:
    """A broker that finds a task from a certain look on."""

    def __init__(self, found_at: int = 99) -> None:
        self.asked: list[tuple[str, float]] = []
        self.fails = False
        self.hangs = False
        self._found_at = found_at

    async def reclaim(self, queue: str, lease: float) -> list[TakenTask]:
        self.asked.append((queue, lease))
        if self.hangs:
            await asyncio.sleep(3600)
        if self.fails:
            raise RedisConnectionError("gone")
        return [taken("late", queue=queue)] if len(self.asked) >= self._found_at else []


def look(doubts: Doubts, broker: Late, now: float) -> list[str]:
    return [task.id for task in asyncio.run(doubts.resolve(cast("Broker", broker), now))]


@pytest.mark.parametrize("number", range(1, len(CHECKS) + 1))
def test_what_redis_carries_out_late_is_found_by_a_later_look(number: int) -> None:
    doubts, broker = Doubts(), Late(found_at=number)
    doubts.add(Exchange("q", take=2), LEASE, now=100.0)
    found = [look(doubts, broker, 100.0 + seconds) for seconds in CHECKS]
    assert [bool(each) for each in found] == [at >= number for at in range(1, len(CHECKS) + 1)]
    assert broker.asked == [("q", LEASE)] * len(CHECKS)
    assert doubts.next_check() is None


def test_each_look_has_its_time_and_the_last_is_well_within_a_lease() -> None:
    doubts, broker = Doubts(), Late()
    doubts.add(Exchange("q", take=1), LEASE, now=100.0)
    for seconds in CHECKS:
        assert doubts.next_check() == 100.0 + seconds
        if seconds:
            assert look(doubts, broker, 99.9 + seconds) == []
        before = len(broker.asked)
        look(doubts, broker, 100.0 + seconds)
        assert len(broker.asked) == before + 1
    assert len(CHECKS) > 1
    assert CHECKS[0] == 0
    assert CHECKS[-1] < LEASE_SECONDS * 2 / 3


def test_a_look_that_fails_is_made_again_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts_module, "LOOK_SECONDS", 0.01)
    doubts, broker = Doubts(), Late()
    doubts.add(Exchange("q", take=1), LEASE, now=100.0)
    for trouble in ("fails", "hangs"):
        setattr(broker, trouble, True)
        assert look(doubts, broker, 100.0) == []
        setattr(broker, trouble, False)
        assert doubts.next_check() == 100.0 + AGAIN_SECONDS
        doubts._doubts[0].not_before = 0.0
    for seconds in CHECKS:
        look(doubts, broker, 200.0 + seconds)
    assert len(broker.asked) == 2 + len(CHECKS)


def test_an_exchange_that_took_nothing_is_not_looked_for_but_its_outcomes_are_in_doubt() -> None:
    doubts = Doubts()
    settled = Settled(taken(), "done", ("", "", "", "", ""))
    doubts.add(Exchange("q", [settled]), LEASE, now=100.0)
    assert settled.in_doubt
    assert doubts.next_check() is None


def test_trouble_with_one_look_does_not_hide_what_another_finds() -> None:
    class Mixed(Late):
        async def reclaim(self, queue: str, lease: float) -> list[TakenTask]:
            if queue == "away":
                raise RedisConnectionError("gone")
            return await super().reclaim(queue, lease)

    doubts, broker = Doubts(), Mixed(found_at=1)
    for queue in ("away", "q"):
        doubts.add(Exchange(queue, take=1), LEASE, now=100.0)
    assert look(doubts, broker, 100.0) == ["late"]
