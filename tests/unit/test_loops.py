"""What all loops share: patience with Redis, and none with bugs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from runqy_agent.loops.loop import Backoff, Loop, PeriodicLoop

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE = 30.0


def test_delays_double_with_jitter_up_to_the_longest_and_begin_anew_after_success() -> None:
    backoff = Backoff(first=1.0, longest=10.0)
    for full in (1, 2, 4, 8, 10, 10):
        assert full / 2 <= backoff.delay() <= full
    backoff.reset()
    assert backoff.delay() <= 1.0


class Scripted(PeriodicLoop):
    """Raises what it is given, round by round; then it goes on without trouble."""

    name = "scripted"

    def __init__(self, troubles: Iterable[Exception | None], rounds: int) -> None:
        super().__init__(interval=0.001)
        self._troubles = iter(troubles)
        self._left = rounds
        self.enough = asyncio.Event()

    async def round(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.enough.set()
        trouble = next(self._troubles, None)
        if trouble is not None:
            raise trouble


def test_trouble_with_redis_is_retried_and_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    troubles = [
        None,
        RedisConnectionError("gone"),
        ReadOnlyError("replica"),
        asyncio.TimeoutError(),
        OSError("net"),
        None,
    ]

    async def run() -> None:
        loop = Scripted([*troubles, RedisConnectionError("again")], rounds=9)
        task = loop.start()
        await asyncio.wait_for(loop.enough.wait(), PATIENCE)
        assert not task.done()
        await loop.stop()
        assert task.cancelled() or task.exception() is None

    asyncio.run(run())
    begins = [record for record in caplog.records if "does not answer as it should" in record.message]
    ends = [record for record in caplog.records if "answers again" in record.message]
    assert [len(begins), len(ends)] == [2, 2]
    assert "gone" in begins[0].message


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), KeyError("x"), ValueError("y")])
def test_any_other_exception_ends_the_loop_so_that_the_worker_notices(bug: Exception) -> None:
    async def run() -> None:
        task = Scripted([None, bug], rounds=5).start()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.exception() is bug
        assert task.get_name() == "scripted"

    asyncio.run(run())


def test_stopping_a_loop_twice_or_before_its_start_is_fine() -> None:
    async def run() -> None:
        loop = Scripted([], rounds=1)
        await loop.stop()
        loop.start()
        await loop.stop()
        await loop.stop()

    asyncio.run(run())


def test_a_loop_without_a_body_is_a_mistake() -> None:
    with pytest.raises(NotImplementedError):
        asyncio.run(Loop().run())
    with pytest.raises(NotImplementedError):
        asyncio.run(PeriodicLoop(1).round())
