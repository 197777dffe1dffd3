"""Waits for a task on an empty queue, at the cost of one blocked connection and no polling."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar

from runqy_agent.broker.connection import describe
from runqy_agent.broker.watch import PLACE_MS, Place
from runqy_agent.loops.loop import TROUBLE, Backoff, Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from runqy_agent.broker.watch import Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 5.0
"""How long one look, or one wait for a turn, may block."""
PLACE_SECONDS = PLACE_MS / 1000
RENEW_SECONDS = LOOK_SECONDS + 1.0
"""A place that is kept for less than this is renewed before the next look."""
SECOND_SECONDS = 0.02
"""How far a worker at the second place lets the first go ahead."""
PAUSE_SECONDS = 1.0
"""Between two looks whether a queue is still paused."""
POLL_SECONDS = 0.1
"""Pause between two tries on a server that does not block (an embedded one for demos)."""
LEAVE_SECONDS = 1.0
NOWHERE = Place(0, paused=False)


class Listener(Loop):
    """Waits for news of one queue, while armed.

    Attributes:
        armed: whether it is waiting; the queue is known to be empty, or paused, then.
        on_news: called when the queue should be asked for tasks again.
    """

    name: ClassVar[str] = "listener"

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.armed = False
        self.on_news: Callable[[], None] = lambda: None
        self._watch = watch
        self._wanted = asyncio.Event()
        self._place = NOWHERE
        self._kept_until = 0.0
        self._resting = False
        self._called = False
        self._leaving: asyncio.Task[None] | None = None

    def arm(self, *, paused: bool = False) -> None:
        """Begin to wait; for the end of the pause first if the queue was found ``paused``."""
        self.armed = True
        self._resting = self._called = False
        if paused:
            self._kept_until = 0.0
        self._wanted.set()

    def rest(self) -> None:
        """There is no room for a task: let other workers go first. A wait that is under way goes on."""
        if self._resting:
            return
        self._resting = True
        if self._place.number or self._called:
            self._called = False
            self._leaving = asyncio.create_task(self._leave(), name="leaving a watch")

    async def run(self) -> None:
        """Wait whenever armed."""
        backoff = Backoff()
        while True:
            await self._wanted.wait()
            try:
                await self._until_news()
            except TROUBLE as error:
                log.debug("listening on queue %s: %s", self._watch.queue, describe(error))
                self._place = NOWHERE
                await asyncio.sleep(backoff.delay())
            else:
                backoff.reset()
            self.armed = False
            self._called = not self._resting
            self._wanted.clear()
            self.on_news()

    async def _until_news(self) -> None:
        """Return when the queue should be asked: it has a task, or nobody knows after a rest."""
        while not self._resting:
            place = await self._enter()
            if place.number == 0:
                if await self._turn():
                    return
            elif place.paused:
                await asyncio.sleep(PAUSE_SECONDS)
                self._kept_until = 0.0
            elif await self._look() and (place.number == 1 or await self._look_again()):
                return

    async def _enter(self) -> Place:
        loop = asyncio.get_running_loop()
        if self._place.number == 0 or self._kept_until < loop.time() + RENEW_SECONDS:
            self._kept_until = loop.time() + PLACE_SECONDS
            self._place = await self._watch.enter()
        return self._place

    async def _turn(self) -> bool:
        # Not all of a fleet that was started at once ask again at once.
        turn = await self._blocking(self._watch.wait_turn, LOOK_SECONDS * random.uniform(0.8, 1.2))
        if turn and self._resting:
            await self._watch.leave()  # no room in the meantime: it is passed on
        return turn == "work"

    async def _look(self) -> bool:
        return bool(await self._blocking(self._watch.look))

    async def _look_again(self) -> bool:
        """Whether the worker at the first place has left the task that was seen."""
        loop = asyncio.get_running_loop()
        while self._kept_until > loop.time() + LOOK_SECONDS:
            await asyncio.sleep(SECOND_SECONDS)
            again = loop.time()
            if not await self._look():
                return False
            if loop.time() - again < SECOND_SECONDS:
                return True  # a later one is the first's again
        return False

    async def _blocking(self, wait: Callable[[float], Coroutine[None, None, T]], seconds: float = LOOK_SECONDS) -> T:
        loop = asyncio.get_running_loop()
        started = loop.time()
        found = await wait(seconds)
        if not found and loop.time() - started < LOOK_SECONDS / 2:
            await asyncio.sleep(POLL_SECONDS)
        return found

    async def _leave(self) -> None:
        self._place = NOWHERE
        with suppress(*TROUBLE):  # then the place expires
            await asyncio.wait_for(self._watch.leave(), LEAVE_SECONDS)

    async def stop(self) -> None:
        """End. Nothing is lost by ending a look."""
        await super().stop()
        self.rest()
        if self._leaving is not None:
            await self._leaving
