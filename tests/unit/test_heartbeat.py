"""What each beat does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from runqy_agent.loops.heartbeat import Heartbeat
from set_clock import SetClock
from task_kit import NOW

if TYPE_CHECKING:
    from runqy_agent.broker.presence import Presence


class Records:
    """What is done to Redis, in order."""

    def __init__(self) -> None:
        self.clock = SetClock(NOW)
        self.time = SimpleNamespace(learn=self._learn)
        self.done: list[Any] = []
        self.trouble: Exception | None = None

    async def _learn(self) -> None:
        self.done.append("the time is asked for")

    async def beat(self, state: Any) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.done.append(state)


def heartbeat(records: Records) -> Heartbeat:
    async def metrics() -> str:
        return '{"load": 1}'

    return Heartbeat(cast("Presence", records), lambda load: cast("Any", f"state with {load}"), metrics)


def test_each_beat_asks_redis_for_its_time_and_tells_how_the_worker_is_now() -> None:
    records = Records()
    beating = heartbeat(records)
    for number in range(1, 3):
        asyncio.run(beating.round())
        assert records.done == ["the time is asked for", 'state with {"load": 1}'] * number
        assert beating.last_beat == records.clock.monotonic()
        records.clock.advance(5)


def test_a_beat_that_redis_did_not_take_is_none() -> None:
    records = Records()
    beating = heartbeat(records)
    records.trouble = RedisConnectionError("gone")
    with pytest.raises(RedisConnectionError):
        asyncio.run(beating.round())
    assert beating.last_beat is None
