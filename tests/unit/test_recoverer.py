"""What the recoverer does when Redis answers otherwise than usual."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ResponseError

from runqy_agent.broker.exchange import Exchanged
from runqy_agent.broker.settle import Policy
from runqy_agent.loops import recoverer
from runqy_agent.loops.recoverer import UNSETTLED, Recoverer
from set_clock import SetClock
from task_kit import NOW, taken

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker


class Answers:
    """A broker with one expired task, which it refuses to recover, and an id that had no lease."""

    def __init__(self, adopted: list[str]) -> None:
        self._adopted = adopted

    async def adopt(self, _: str) -> list[str]:
        return self._adopted

    async def expired(self, *_: Any) -> list[Any]:
        return [] if self._adopted else [SimpleNamespace(task=taken("a"), started=True)]

    async def exchange(self, _: Any) -> list[Exchanged]:
        return [Exchanged(error=ResponseError("OOM"))]


def loop(broker: Answers) -> Recoverer:
    clock = SetClock(NOW)
    clock.set_at = clock.monotonic() - UNSETTLED - 1
    return Recoverer(cast("Broker", broker), clock, {})


def test_a_recovery_that_is_refused_as_a_whole_is_trouble() -> None:
    with pytest.raises(ResponseError, match="OOM"):
        asyncio.run(loop(Answers([]))._look_after("q", Policy()))


def test_soon_after_an_id_was_given_a_lease_that_has_ended_there_is_another_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recoverer, "GRACE", -0.99)

    async def look() -> None:
        recovering = loop(Answers(["a"]))
        await recovering._look_after("q", Policy())
        await asyncio.wait_for(recovering._nudged.wait(), 60)

    asyncio.run(look())
