"""Work that several ask for at once, done once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

T = TypeVar("T")


@dataclass
class _Work(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class InFlight(Generic[T]):
    """Joins those who ask for the same thing while it is being found out. Nothing is remembered afterwards."""

    def __init__(self) -> None:
        self._works: dict[Hashable, _Work[T]] = {}

    async def ask(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of ``start()``, or of the one that is under way for ``key``.

        It goes on if one who waits is cancelled, and is cancelled with the last one.
        """
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(asyncio.ensure_future(start()))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting:
                if self._works.get(key) is work:
                    del self._works[key]
                if not work.task.done():
                    work.task.cancel()
                    await asyncio.wait({work.task})
