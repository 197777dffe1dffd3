"""A fresh process for every task of one parent queue, with spares already started and ready."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

from runqy_agent.clock import monotonic
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Unstarted
from runqy_agent.process.memory import available_memory
from runqy_agent.process.runner import BaseRunner, ProcessHealth, RunnerHealth
from runqy_agent.process.serving import STOP_GRACE
from runqy_agent.process.single_run import SingleRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command
    from runqy_agent.process.recovery import Recovery

log = logging.getLogger(__name__)

LEAST_MEMORY = 256 * 1024 * 1024
"""Bytes that stay available at least when a spare is started."""
MEMORY_MARGIN = 2
"""As many times the memory of one process must be available for a spare: the task it waits for needs some too."""


class OneShot(BaseRunner):
    """Runs each task in a process of its own, never used again.

    A process that does not become ready is no task's fault: its task goes back, and the recovery rules say when the
    next one is tried.
    """

    def __init__(self, name: str, recovery: Recovery, *, prestart: int = 1) -> None:
        """Make one.

        Args:
            name: the parent queue.
            recovery: when to try again after a process that did not become ready.
            prestart: how many processes are kept started and ready for tasks to come, as long as memory allows.
        """
        super().__init__(name)
        self.health = RunnerHealth(look=self._look)
        self._commands: list[Command] = []
        self._recovery = recovery
        self._prestart = prestart
        self._spares: deque[asyncio.Task[SingleRun]] = deque()
        self._runs: dict[TakenTask, asyncio.Task[None]] = {}
        self._processes: set[SingleRun] = set()
        self._used: Counter[str] = Counter()
        self._largest = 0
        self._endings: set[asyncio.Task[int]] = set()
        self._failure = ""
        self._failed = asyncio.Event()
        self._short = False
        self._stopping = False

    def use(self, commands: Sequence[Command]) -> None:
        """Say how a process is started. Of several commands, such as one for each GPU, the least used is taken."""
        self._commands = list(commands)

    async def start(self) -> None:
        """Start the first process, which shows that the code can start. The first task gets it.

        Raises:
            ProcessNotReadyError: it cannot.
        """
        first = self._start_spare()
        try:
            await asyncio.shield(first)
        except ProcessNotReadyError:
            self._spares.remove(first)
            raise
        self._recovery.became_ready()
        self._became("ready")
        self._refill()

    async def watch(self) -> None:
        """Try again after a process did not become ready, by the recovery rules."""
        while True:
            await self._failed.wait()
            self._failed.clear()
            why = self._failure
            delay = self._recovery.crashed()
            self.health.consecutive_fails = self._recovery.consecutive_fails
            self.health.total_restarts = self._recovery.total_restarts
            if delay is None:
                log.error("queue %s takes no more tasks until the worker is restarted: %s", self.name, why)
                self._became("degraded", why)
                continue  # nothing is started any more that could fail; new code may come
            log.warning("starting a process of queue %s again in %.1f s: %s", self.name, delay, why)
            self._became("recovering", why, retry_at=monotonic() + delay)
            await asyncio.sleep(delay)
            if self.health.state == "recovering":  # no new code has come meanwhile
                await self._try()

    async def _try(self) -> None:
        first = asyncio.ensure_future(self._start_process())
        try:
            await first
        except ProcessNotReadyError as error:
            self._not_ready(error)
        else:
            # Spares that failed meanwhile failed for the same reason.
            self._spares = deque(spare for spare in self._spares if not _failed(spare))
            self._spares.append(first)
            self._recovery.became_ready()
            self._became("ready")

    def _not_ready(self, error: ProcessNotReadyError) -> None:
        """Take no more tasks; ``watch`` does the rest."""
        self.ready = False
        self._failure = str(error)
        self._failed.set()

    # Tasks.

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Begin each task in its own process."""
        for task in tasks:
            self._runs[task] = asyncio.ensure_future(self._run(task))

    async def _run(self, task: TakenTask) -> None:
        run: SingleRun | None = None
        outcome: Outcome
        try:
            run = await self._next_process()
            outcome = await run.execute(task)
        except ProcessNotReadyError as error:
            self._not_ready(error)
            outcome = Unstarted()
        except asyncio.CancelledError:
            if run is not None:
                run.child.kill()
            raise
        finally:
            self._runs.pop(task, None)
        if run is not None:
            self._end(run)
        self._sink.finished(task, outcome)
        self._sink.wake()

    async def _next_process(self) -> SingleRun:
        while self._spares:
            spare = self._spares.popleft()
            self._refill()
            run = await spare
            if not run.child.exited.done():
                return run
        run = await self._start_process()
        self._refill()
        return run

    async def _start_process(self, commands: Sequence[Command] = ()) -> SingleRun:
        command = min(commands or self._commands, key=lambda each: self._used[each.gpu])
        run = SingleRun(command, self.health)
        self._used[command.gpu] += 1
        self._processes.add(run)
        run.child.exited.add_done_callback(lambda _: self._ended(run))
        try:
            await run.start()
        except BaseException:
            if not run.child.pid:  # it will never end, since it has not begun
                self._ended(run)
            raise
        self._largest = max(self._largest, run.memory)
        return run

    def _ended(self, run: SingleRun) -> None:
        if run in self._processes:
            self._processes.remove(run)
            self._used[run.command.gpu] -= 1

    def _start_spare(self) -> asyncio.Task[SingleRun]:
        spare = asyncio.ensure_future(self._start_process())
        spare.add_done_callback(_seen)
        self._spares.append(spare)
        return spare

    def _refill(self) -> None:
        while len(self._spares) < self._prestart and not self._stopping and self._memory_allows():
            self._start_spare()

    def _memory_allows(self) -> bool:
        needed = max(LEAST_MEMORY, MEMORY_MARGIN * self._largest)
        available = available_memory()
        short = available < needed
        if short and not self._short:
            free, wanted = available >> 20, needed >> 20
            log.warning("queue %s: no spare is started: %d of %d MiB of memory are left", self.name, free, wanted)
        self._short = short
        return not short

    def _end(self, run: SingleRun) -> None:
        ending = asyncio.ensure_future(run.child.stop(STOP_GRACE))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def abandon(self, task: TakenTask) -> None:
        """Kill the process group of a task; nothing is reported for it."""
        run = self._runs.pop(task, None)
        if run is not None:
            run.cancel()

    # New code.

    async def replace(self, command: Command) -> None:
        """Start a spare of the new code; once it is ready every further task runs new code.

        Raises:
            ProcessNotReadyError: it did not become ready; everything is as it was.
        """
        commands = [command.on_gpu(old.gpu) if old.gpu else command for old in self._commands]
        first = asyncio.ensure_future(self._start_process(commands))
        await first
        self._commands = commands
        old_spares = list(self._spares)
        self._spares.clear()
        self._spares.append(first)
        self._discard(old_spares)
        self._recovery.forgive()
        self._recovery.became_ready()
        self._became("ready")
        self._refill()

    async def settled(self) -> None:
        """Wait until no task runs that was begun before."""
        await asyncio.gather(*self._runs.values(), return_exceptions=True)

    def _look(self) -> list[ProcessHealth]:
        return [
            ProcessHealth(
                pid=run.child.pid,
                state="ready" if run.child.ready.done() else "starting",
                reason="",
                tasks=int(run.busy),
                memory=run.memory,
                restarts=0,
                gpu=run.command.gpu,
            )
            for run in list(self._processes)
        ]

    async def stop(self) -> None:
        """Kill what runs, stop the spares."""
        self._stopping = True
        self._became("stopped")
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        self._discard(self._spares)
        await asyncio.gather(*runs, *self._spares, *self._endings, return_exceptions=True)

    def _discard(self, spares: Sequence[asyncio.Task[SingleRun]]) -> None:
        for spare in spares:
            if spare.done() and not _failed(spare):
                self._end(spare.result())
            else:
                spare.cancel()


def _failed(spare: asyncio.Task[SingleRun]) -> bool:
    return spare.done() and (spare.cancelled() or spare.exception() is not None)


def _seen(spare: asyncio.Task[SingleRun]) -> None:
    if not spare.cancelled():
        spare.exception()  # it is raised where the spare is used; until then it must not be reported as lost
