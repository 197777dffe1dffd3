"""What all loops have in common: start, stop, and patience with Redis."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import RedisError

from runqy_agent.broker.connection import describe
from runqy_agent.loops.trouble import Troubles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

log = logging.getLogger(__name__)

TROUBLE = (RedisError, OSError, asyncio.TimeoutError)
"""What going wrong between us and Redis looks like. It passes; the loops wait for that."""


STOP_SECONDS = 1.0
"""How long a stop waits for the round that is under way."""
CANCEL_AGAIN_SECONDS = 0.25
HUNG_SECONDS = 60.0


class Backoff:
    """Delays that double, with jitter, up to a limit."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        """Args are seconds."""
        self._first = first
        self._longest = longest
        self._next = first

    def delay(self) -> float:
        """Seconds to wait before the next attempt."""
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay * random.uniform(0.5, 1.0)  # jitter, not a secret

    def reset(self) -> None:
        """It worked; begin anew next time."""
        self._next = self._first


async def for_each(queues: Iterable[str], step: Callable[[str], Awaitable[object]]) -> None:
    """Take a step for every queue. Trouble with one, whose node of a cluster is away, does not stop the others.

    Raises:
        RedisError, OSError: the first trouble, after all steps.
    """
    troubles = [await _trouble_of(step(queue)) for queue in queues]
    for trouble in troubles:
        if trouble is not None:
            raise trouble


async def _trouble_of(step: Awaitable[object]) -> Exception | None:
    try:
        await step
    except TROUBLE as error:
        return error
    return None


class Loop:
    """A named task that runs from ``start`` to ``stop``. Its end for any other reason is for the worker to notice.

    Attributes:
        name: for logs.
        task: the running task, None before the start.
        troubles: what keeps it from its work.
    """

    name: ClassVar[str] = "loop"

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.troubles = Troubles(self.name)
        self._busy_since: float | None = None

    @property
    def hung(self) -> bool:
        """Whether a round takes longer than any that gets an answer, or an error, from Redis in the end."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > HUNG_SECONDS

    async def _watched(self, work: Awaitable[None]) -> None:
        """Do one round, and note how long it takes."""
        self._busy_since = time.monotonic()
        try:
            await work
        finally:
            self._busy_since = None

    def start(self) -> asyncio.Task[None]:
        """Begin to run."""
        self.task = asyncio.create_task(self.run(), name=self.name)
        return self.task

    async def stop(self) -> None:
        """End; returns when it has ended."""
        while self.task is not None and not self.task.done():
            self.task.cancel()  # again if need be: redis-py loses a cancellation that comes while it connects
            await asyncio.wait([self.task], timeout=CANCEL_AGAIN_SECONDS)

    async def run(self) -> None:
        """What it does, until it is cancelled."""
        raise NotImplementedError


class PeriodicLoop(Loop):
    """Does one thing every so often. Trouble with Redis is logged when it begins and when it ends, and retried."""

    def __init__(self, interval: float) -> None:
        """Args: interval: seconds between two rounds."""
        super().__init__()
        self.interval = interval
        self._nudged = asyncio.Event()
        self._stopping = False

    @property
    def trouble(self) -> str:
        """What was wrong in the last round, "" for nothing."""
        return self.troubles.text()

    async def stop(self) -> None:
        """End after the round that is under way; one that does not end soon is cut off."""
        self._stopping = True
        self.nudge()
        if self.task is not None:
            await asyncio.wait([self.task], timeout=STOP_SECONDS)
        await super().stop()

    def nudge(self) -> None:
        """Do the next round now."""
        self._nudged.set()

    async def run(self) -> None:
        """Round after round."""
        backoff = Backoff(longest=self.interval)
        while not self._stopping:
            self._nudged.clear()
            try:
                await self._watched(self.round())
            except TROUBLE as error:
                if self.troubles.failed(error):
                    log.warning("%s: Redis does not answer as it should (%s), trying again", self.name, describe(error))
                await self._pause(backoff.delay())
                continue
            if self.troubles.worked():
                log.info("%s: Redis answers again", self.name)
                backoff.reset()
            await self._pause(self.interval)

    async def _pause(self, seconds: float) -> None:
        if not self._stopping:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), seconds)

    async def round(self) -> None:
        """What is done in one round."""
        raise NotImplementedError
