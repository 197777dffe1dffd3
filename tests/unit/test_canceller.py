"""A subscription that has died is made again, whether the connection says so or not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from runqy_agent.loops.canceller import CANCELLED, Canceller
from runqy_agent.outcome import Failure
from task_kit import taken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from runqy_agent.broker.connection import Client
    from runqy_agent.loops.processor import Processor

CANCEL = {"type": "message", "data": b"t1"}
PONG = {"type": "pong", "data": b""}


class Subscription:
    """Gives what it is told to; nothing, when that is over."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = list(messages)
        self.pings = 0
        self.channels: list[str] = []
        self.connection = SimpleNamespace(is_connected=False)

    async def subscribe(self, channel: str) -> None:
        self.channels.append(channel)

    async def ping(self) -> None:
        self.pings += 1

    async def get_message(self, timeout: float) -> Any:
        assert timeout > 0
        await asyncio.sleep(0)
        if not self._messages:
            await asyncio.Event().wait()
        message = self._messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message


class Subscriptions:
    """A client whose subscriptions are made one after the other."""

    def __init__(self, *subscriptions: Subscription) -> None:
        self._left = list(subscriptions)

    @asynccontextmanager
    async def pubsub(self) -> AsyncIterator[Subscription]:
        yield self._left.pop(0)


class Slots:
    """A processor with one running task."""

    def __init__(self) -> None:
        self.running = [taken("t1"), taken("t2")]
        self.ended: list[tuple[str, Any]] = []
        self.one_ended = asyncio.Event()

    def each(self, tasks: Sequence[Any], look_at: Callable[[Any], None]) -> None:
        for task in list(tasks):
            look_at(task)

    def cut_off(self, task: Any, outcome: Any) -> None:
        self.ended.append((task.id, outcome))
        self.one_ended.set()


def cancelled(*subscriptions: Subscription) -> list[tuple[str, Any]]:
    async def run() -> list[tuple[str, Any]]:
        slots = Slots()
        loop = Canceller(cast("Client", Subscriptions(*subscriptions)), cast("Processor", slots))
        ends = [loop.start(), asyncio.ensure_future(slots.one_ended.wait())]
        await asyncio.wait(ends, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        await loop.stop()
        return slots.ended

    return asyncio.run(run())


@pytest.mark.parametrize(
    "end", [[None, None], [RedisConnectionError("gone")], [PONG, None, None]], ids=["silent", "cut", "silent later"]
)
def test_a_subscription_that_has_died_is_made_again(end: list[Any]) -> None:
    first, second = Subscription(end), Subscription([CANCEL])
    assert cancelled(first, second) == [("t1", Failure(CANCELLED))]
    assert first.channels == second.channels == ["asynq:cancel"]


def test_a_silent_subscription_that_answers_a_ping_is_kept() -> None:
    only = Subscription([None, PONG, None, PONG, CANCEL])
    assert cancelled(only) == [("t1", Failure(CANCELLED))]
    assert only.pings == 2
