"""The hot path: finishes tasks and takes the next ones, as many in one round trip as there are.

One loop owns all slots. Whatever runs the tasks reports to it (``finished``), the listeners wake it when there are new
tasks, and every round is one exchange with Redis that writes all outcomes at hand and fills all free slots.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.broker.connection import describe
from runqy_agent.broker.exchange import Exchange, Exchanged, NotDoneError
from runqy_agent.loops.doubts import Doubts
from runqy_agent.loops.holding import LEASE_ENDED, Holding
from runqy_agent.loops.loop import TROUBLE, Backoff
from runqy_agent.loops.route import follow
from runqy_agent.outcome import Unstarted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.clock import Clock
    from runqy_agent.loops.route import Route
    from runqy_agent.loops.selection import Selector
    from runqy_agent.process.runner import Runner

log = logging.getLogger(__name__)

REFUSED_DELAY = 5.0
"""Seconds to leave a queue alone on which Redis refused a step."""
MOST_AT_ONCE = 500
"""Tasks taken from one queue in one step, so that no script runs long."""


class Processor(Holding):
    """Owns the slots.

    Attributes:
        exchanging: whether one is under way.
        on_health_change: called when a runner's health has changed.
    """

    name: ClassVar[str] = "processor"

    def __init__(
        self, broker: Broker, clock: Clock, routes: Sequence[Route], concurrency: int, selector: Selector
    ) -> None:
        super().__init__(clock)
        self._broker = broker
        self._routes: dict[str, Route] = {}
        self._concurrency = concurrency
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._doubts = Doubts()
        self._draining = False
        self._wakes_at = math.inf
        self.exchanging = False
        self.on_health_change: Callable[[], None] | None = None
        self.serve(routes, selector)

    def serve(self, routes: Sequence[Route], selector: Selector) -> None:
        """Serve these sub-queues from now on. Tasks of others that are held are finished."""
        follow(self._routes, routes)
        for route in routes:
            route.runner.attach(self)
            if route.listener is not None:
                route.listener.on_news = self.wake
        self._selector = selector
        self._wake.set()

    # What others see and tell.

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def health_changed(self) -> None:
        """A runner is ready now, or is not any more."""
        self._wake.set()
        if self.on_health_change is not None:
            self.on_health_change()

    def lost(self, tasks: Sequence[TakenTask], why: str) -> None:
        """These tasks belong to somebody else now: nothing is written for them, work on them ends."""
        super().lost(tasks, why)
        if tasks:
            self._check_empty()

    def _lose_ended(self) -> None:
        """An outcome may be written while the lease holds. After that the task is a recoverer's, whoever's it is."""
        now = self._clock.monotonic()
        for route in self._routes.values():
            self.lost(route.too_late(now), LEASE_ENDED)

    # Draining.

    def hold(self, *, draining: bool = True) -> None:
        """Stop taking tasks, or take them again."""
        self._draining = draining
        self._wake.set()

    async def drain(self, timeout: float) -> None:
        """Take nothing more, wait ``timeout`` seconds for running tasks, put the rest back to the head of the queue."""
        self.hold()
        await self._wait_empty(timeout)
        await self.put_back()

    async def put_back(self, timeout: float = 5.0) -> None:
        """Return every task that is still running to the head of its queue, and wait until that is written."""
        if left := self.running:
            log.warning("putting %d unfinished tasks back into their queues", len(left))
        for task in reversed(left):  # the oldest goes back last, to be the first again
            self.cut_off(task, Unstarted())
        if not await self._wait_empty(timeout):
            log.error("%d outcomes could not be written; their tasks will be recovered", len(self._held))

    async def _wait_empty(self, timeout: float) -> bool:
        self._check_empty()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout)
        return self._empty.is_set()

    def _check_empty(self) -> None:
        if self.exchanging or self._held:
            self._empty.clear()
        else:
            self._empty.set()

    # The loop.

    async def run(self) -> None:
        """Exchange whenever there is something to write or room to fill."""
        backoff = Backoff()
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.exchanging = True
            try:
                await self._watched(self._round())
            except TROUBLE as error:
                log.warning("processor: Redis does not answer as it should (%s), trying again", describe(error))
                self.troubles.failed(error)
                await asyncio.sleep(backoff.delay())
                self._wake.set()
            else:
                backoff.reset()
                self.troubles.worked()
            finally:
                self.exchanging = False
            self._check_empty()

    def _wake_at(self, moment: float) -> None:
        """See to it that a round comes then (monotonic seconds), also if nobody else wakes it.

        A timer may be early, as the loop's idea of the time may be a little old: then that round asks for another one.
        """
        if moment < self._wakes_at:
            self._wakes_at = moment
            asyncio.get_running_loop().call_later(max(0.0, moment - self._clock.monotonic()) + 0.01, self._wake_now)

    def _wake_now(self) -> None:
        self._wakes_at = math.inf
        self._wake.set()

    async def _round(self) -> None:
        if self._doubts.next_check() is not None:
            await self._resolve_doubts()
        self._lose_ended()
        if not (requests := self._plan()):
            return
        lease = self._broker.new_lease()
        try:
            answers = await self._broker.exchange(requests, lease)
        except TROUBLE as error:
            for request in requests:
                self._routes[request.queue].take_back(request)
                if not isinstance(error, NotDoneError):
                    self._doubts.add(request, lease, self._clock.monotonic())
            raise
        # All slots that became free first: a task of one queue may take the slot of another's.
        for request, answer in zip(requests, answers, strict=True):
            if answer.in_doubt:
                self._doubts.add(request, lease, self._clock.monotonic())
            self._release(request, answer)
        ready: dict[Runner, list[TakenTask]] = {}
        for request, answer in zip(requests, answers, strict=True):
            self._receive(request, answer, ready)
        for runner, tasks in ready.items():
            self._run(runner, tasks)

    def _run(self, runner: Runner, tasks: list[TakenTask]) -> None:
        """Let a runner begin tasks. Where that raises, each is given to it alone, to find which one it is."""
        try:
            runner.run(tasks)
        except Exception:
            log.exception("queue %s: %d tasks could not be begun", tasks[0].queue, len(tasks))
            running = [task for task in tasks if task in self._held and task not in self._decided]
            for task in running:
                self._abandon(self._held[task], task)
            self.each(running, lambda task: runner.run([task]))

    async def _resolve_doubts(self) -> None:
        known = {(task.queue, task.id) for task in self._held}
        for task in await self._doubts.resolve(self._broker, self._clock.monotonic()):
            if (task.queue, task.id) not in known:
                log.info("queue %s: task %s was taken by an exchange whose reply was lost", task.queue, task.id)
                route = self._routes[task.queue]
                if admitted := self._admit(route, [task]):
                    self._run(route.runner, admitted)
        if (again := self._doubts.next_check()) is not None:
            self._wake_at(again)

    def _plan(self) -> list[Exchange]:
        now = self._clock.monotonic()
        free = self._concurrency - len(self._held)
        eligible = set()
        for queue, route in self._routes.items():
            if route.may_give(now) and len(route.refused) < self._concurrency:  # so what waits is bounded
                eligible.add(queue)
            if route.send_again(now):
                self._wake.set()  # once it is written, this queue may give tasks again
            if route.refused or route.not_before > now or route.take_not_before > now:
                self._wake_at(route.due_later(now))
            free += len(route.settled) + len(route.refused)
        room = free > 0 and not self._draining
        shares = self._selector.plan(free, eligible) if room else {}
        requests = []
        for queue, route in self._routes.items():
            route.has_room(room=room and route.runner.ready)
            take = min(shares.get(queue, 0), MOST_AT_ONCE)
            if (route.settled or take) and route.not_before <= now:
                requests.append(Exchange(queue, route.settled, take))
                route.settled = []
        return requests

    def _release(self, request: Exchange, answer: Exchanged) -> None:
        route = self._routes[request.queue]
        again_at = self._clock.monotonic() + REFUSED_DELAY
        if why := answer.why_refused():
            log.error("queue %s: Redis refuses (%s), trying again in %g s", route.queue, why, REFUSED_DELAY)
            self.troubles.failed(answer.error or RuntimeError(why), route.queue)
            self._wake.set()
        elif not route.refused and (request.finished or not route.settled):  # what was refused before waits there
            self.troubles.worked(route.queue)
        if answer.error is not None:
            route.take_back(request)
            route.not_before = again_at
            return
        if answer.not_taken:
            route.take_not_before = again_at
        for at, (settled, held) in enumerate(zip(request.finished, answer.held, strict=True)):
            if at in answer.refused:
                route.was_refused(settled, again_at)
                continue
            self._decided.discard(settled.task)
            if self._held.pop(settled.task, None) is not None and not held:
                self._note_loss(settled.task, "it is no longer held", settled)

    def _receive(self, request: Exchange, answer: Exchanged, ready: dict[Runner, list[TakenTask]]) -> None:
        route = self._routes[request.queue]
        for task_id in answer.dropped:
            log.warning("queue %s: dropped the id %r, for which there is no task", route.queue, task_id)
        if answer.taken:
            ready.setdefault(route.runner, []).extend(self._admit(route, answer.taken))
        if answer.error is None and not answer.not_taken:
            gave_less = len(answer.taken) + len(answer.dropped) + len(answer.repeated) < request.take
            route.note_answer(paused=answer.paused, gave_less=gave_less)
        if request.take:
            self._wake.set()  # slots that this queue could not fill may be filled by another

    def _admit(self, route: Route, tasks: list[TakenTask]) -> list[TakenTask]:
        """Hold tasks that were taken, and sort out those that are not to be run. Returns the others."""
        ready: list[TakenTask] = []
        now = self._clock.monotonic()

        def admit(task: TakenTask) -> None:
            if (refusal := route.refusal(task, self._clock)) is not None:
                self.finished(task, refusal)
                self._wake.set()
            else:
                ready.append(task)

        for task in tasks:
            if task.lease_ends > now:
                self._held[task] = route
                continue
            # This process or Redis was frozen meanwhile.
            log.info("queue %s: task %s was taken too late to be run, it goes back", task.queue, task.id)
            route.settled.append(route.policy.settle_safely(task, Unstarted(), self._clock.now_ns())[0])
            self._wake.set()
        self.each([task for task in tasks if task in self._held], admit)
        # A task whose run has ended takes no slot, even while its outcome still waits to be written.
        excess = len(self._held) - len(self._decided) - self._concurrency
        room = 0 if self._draining else len(ready) - max(0, excess)
        while len(ready) > max(0, room):
            # Found again after its reply was lost, while others have taken the slots.
            self.finished(ready.pop(), Unstarted())
            self._wake.set()
        return ready
