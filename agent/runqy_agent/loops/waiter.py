"""Waits for tasks on empty queues: one loop and few connections for any number of them."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import ResponseError

from runqy_agent.broker.connection import describe
from runqy_agent.loops.listener import Listener
from runqy_agent.loops.looks import POLL_SECONDS, Looks
from runqy_agent.loops.loop import TROUBLE, Backoff, Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.fallbacks import Fallbacks
    from runqy_agent.broker.keys import Layout
    from runqy_agent.broker.tracking import Tracker
    from runqy_agent.broker.watch import Wakeup, Watch

log = logging.getLogger(__name__)

RENEW_SECONDS = 3.0
"""Between two signs of life of a watcher, which are also attempts to get the slots it does not have."""
SECOND_WATCHER_DELAY = 0.02
"""How far a worker at the second slot lets the first go ahead."""
WAKEUP_SECONDS = 5.0
"""How long one wait for a wakeup may block."""
LEAVE_SECONDS = 1.0
SECOND = 2
"""The slot of the worker that lets the first go ahead."""


class Waiter(Loop):
    """Waits for news of all queues.

    Attributes:
        listeners: one for each queue that is waited for.
    """

    name: ClassVar[str] = "waiter"

    def __init__(
        self,
        layout: Layout,
        client: Client,
        *,
        open_tracker: Callable[[Callable[[str], None]], Tracker],
        watch: Watch | None,
        fallbacks: Fallbacks,
    ) -> None:
        """Make one.

        Args:
            layout: of the keys.
            client: for looks that nobody needs to be told about.
            open_tracker: makes what tells of changes, given what is to be called.
            watch: shares the watch with other workers; None where that is not possible, so all look at everything.
            fallbacks: learns if Redis tells of no changes.
        """
        super().__init__()
        self.listeners: list[Listener] = []
        self._by_queue: dict[str, Listener] = {}
        self._by_key: dict[str, Listener] = {}
        self._layout = layout
        self._looks = Looks(client, open_tracker(self._changed), fallbacks)
        self._watch = watch
        self._stirred = asyncio.Event()
        self._some_wait = asyncio.Event()
        self._renew_at = self._verify_at = 0.0
        self._refused: ResponseError | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def listen(self, queue: str) -> Listener:
        """Wait for tasks of this sub-queue, too, from now on."""
        listener = Listener(queue, self._layout, self._stirred.set)
        if self._watch is None:
            listener.slot = 1
        self.listeners.append(listener)
        self._by_queue[queue] = listener
        self._by_key |= {listener.pending_key: listener, listener.paused_key: listener}
        self._stirred.set()
        return listener

    def dismiss(self, queue: str) -> None:
        """Wait for this one no more, and let others watch it."""
        listener = self._by_queue.pop(queue)
        self.listeners.remove(listener)
        del self._by_key[listener.pending_key], self._by_key[listener.paused_key]
        if listener.slot:
            self._leave([queue], "slot")

    # What Redis tells.

    def _changed(self, key: str) -> None:
        if not key:
            self._doubt_all()
            return
        listener = self._by_key.get(key)
        if listener is None or key != listener.key or not listener.on_duty:
            return
        if listener.paused:
            listener.due = True
        elif listener.slot == SECOND:
            listener.look_at = asyncio.get_running_loop().time() + SECOND_WATCHER_DELAY
        else:
            self._act(listener)
            return
        self._stirred.set()

    def _act(self, listener: Listener) -> None:
        """A queue has a task, or is not paused any more."""
        if not listener.resting:
            if listener.armed:
                listener.tell()
            return
        listener.armed = listener.called = listener.paused = False
        if self._watch is not None:
            listener.slot = 0
            self._leave([listener.queue], "work")

    def _leave(self, queues: list[str], wakeup: Wakeup) -> None:
        task = asyncio.create_task(self._pass_on(queues, wakeup), name="waking others")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _pass_on(self, queues: list[str], wakeup: Wakeup) -> None:
        if self._watch is not None:
            with suppress(*TROUBLE):  # the slots expire, and the others look now and then
                await asyncio.wait_for(self._watch.leave(queues, wakeup), LEAVE_SECONDS)

    def _doubt_all(self) -> None:
        for listener in self.listeners:
            listener.due = listener.unsure = True
        self._stirred.set()

    # The loop.

    async def run(self) -> None:
        """Wait whenever a listener is armed."""
        wakeups = asyncio.create_task(self._take_wakeups(), name="wakeups")
        backoff = Backoff(first=0.02)
        try:
            while True:
                self._stirred.clear()
                try:
                    await self._round()
                except TROUBLE as error:
                    log.debug("waiting for tasks: %s", describe(error))
                    self.troubles.failed(error)
                    self._doubt_all()
                    self._renew_at = 0.0
                    await asyncio.sleep(backoff.delay())
                    continue
                backoff.reset()
                if self._refused is None:
                    self.troubles.worked()
                else:
                    self.troubles.failed(self._refused)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stirred.wait(), self._until_next())
        finally:
            wakeups.cancel()

    def _until_next(self) -> float:
        """Seconds."""
        times = [self._verify_at, *(each.look_at for each in self.listeners if each.look_at)]
        if self._watch is not None:
            times.append(self._renew_at)
        return max(0.001, min(times) - asyncio.get_running_loop().time())

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        await self._enter(now)
        for listener in self.listeners:
            if listener.look_at and listener.look_at <= now:
                listener.look_at, listener.due = 0.0, True
        watched = [each for each in self.listeners if each.on_duty and (each.due or each.unsure)]
        others = [each for each in self.listeners if each.unsure and not each.on_duty and (each.armed or each.called)]
        for listener in self.listeners:
            listener.due = listener.unsure = False
        await self._look(watched, tracked=True)
        await self._look(others, tracked=False)
        if now >= self._verify_at:
            await self._verify()
            self._verify_at = now + self._looks.interval(len(self.listeners))
        if any(_idles(each) for each in self.listeners):
            self._some_wait.set()

    async def _enter(self, now: float) -> None:
        """Take free slots for the queues that are waited for; with the others this worker keeps what it has."""
        if self._watch is None:
            return
        wanted = [each for each in self.listeners if each.waits]
        if now < self._renew_at:
            wanted = [each for each in wanted if each.due and not each.slot]
            if not wanted:
                return
        else:
            self._renew_at = now + RENEW_SECONDS
        self._refused = None
        try:
            numbers = await self._watch.enter([each.queue for each in wanted])
        except ResponseError as error:  # then each worker watches for itself
            self._refused, numbers = error, [1] * len(wanted)
        for listener, number in zip(wanted, numbers, strict=True):
            listener.due = listener.due or number > listener.slot == 0
            listener.slot = number

    async def _look(self, listeners: Sequence[Listener], *, tracked: bool) -> None:
        if not listeners:
            return
        names = [each.key for each in listeners]
        for listener, name, exists in zip(
            listeners, names, await self._looks.existing(names, tracked=tracked), strict=True
        ):
            if name != listener.key:
                continue
            if exists is not listener.paused:
                self._act(listener)
            else:
                listener.called = False

    async def _verify(self) -> None:
        """Look at everything that is waited for: at the cost of one command as long as all is as it was."""
        for tracked, paused in ((True, False), (True, True), (False, False)):
            some = [
                each for each in self.listeners if each.paused is paused and (each.on_duty if tracked else _idles(each))
            ]
            names = [each.key for each in some]
            if names and await self._looks.count(names, tracked=tracked) != (len(names) if paused else 0):
                await self._look(some, tracked=tracked)

    async def _take_wakeups(self) -> None:
        backoff = Backoff()
        while self._watch is not None:
            await self._some_wait.wait()
            if not any(_idles(each) for each in self.listeners):
                self._some_wait.clear()
                continue
            queues = [each.queue for each in self.listeners if not each.resting]
            started = asyncio.get_running_loop().time()
            try:
                # Not all of a fleet that was started at once ask again at once.
                found = await self._watch.next_wakeup(queues, WAKEUP_SECONDS * random.uniform(0.8, 1.2))
            except TROUBLE as error:
                log.debug("waiting for a wakeup: %s", describe(error))
                await asyncio.sleep(backoff.delay())
                continue
            backoff.reset()
            if found:
                self._wake(*found)
            elif asyncio.get_running_loop().time() - started < WAKEUP_SECONDS / 2:
                await asyncio.sleep(POLL_SECONDS)  # a server that does not block (an embedded one for demos)

    def _wake(self, queue: str, wakeup: str) -> None:
        listener = self._by_queue.get(queue)
        if listener is None:
            self._leave([queue], "work")
        elif wakeup == "slot":
            listener.unsure, self._renew_at = True, 0.0
            self._stirred.set()
        elif listener.resting:
            self._leave([queue], "work")  # no room in the meantime: it is passed on
        elif listener.armed:
            listener.tell()

    async def stop(self) -> None:
        """End. Nothing is lost by it: whoever watches instead looks first."""
        await super().stop()
        held = [each.queue for each in self.listeners if each.slot]
        for listener in self.listeners:
            listener.slot = 0
        if held:
            self._leave(held, "slot")
        if self._leaving:
            await asyncio.wait(self._leaving)
        await self._looks.close()


def _idles(listener: Listener) -> bool:
    """Whether it waits for tasks that others watch."""
    return listener.waits and listener.slot == 0
