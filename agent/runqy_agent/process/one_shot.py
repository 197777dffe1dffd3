"""A fresh process for every task of one parent queue, with a spare already started and ready."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure
from runqy_agent.process.child import Child
from runqy_agent.process.protocol import UnsendablePayloadError, encode_task
from runqy_agent.process.runner import BaseRunner, RunnerHealth
from runqy_agent.process.supervisor import STOP_GRACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command
    from runqy_agent.process.lines import LongLine
    from runqy_agent.process.protocol import Response

log = logging.getLogger(__name__)


class _Run:
    """One process and the one answer that is wanted from it."""

    def __init__(self, command: Command, health: RunnerHealth) -> None:
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.child = Child(command, self._answered, self._answered_too_long, lambda: None)
        self._command = command
        self._health = health
        self._task_id: str | None = None

    async def start(self) -> None:
        await self.child.start()
        try:
            await self.child.wait_ready()
        except BaseException:
            await asyncio.shield(self.child.stop(STOP_GRACE))
            raise

    async def execute(self, task: TakenTask) -> Outcome:
        self._task_id = task.id
        try:
            line = encode_task(task)
        except UnsendablePayloadError as error:
            return Failure(str(error), retry=False)
        self.child.write(line)
        await asyncio.wait((self.answer, self.child.exited), return_when=asyncio.FIRST_COMPLETED)
        if self.answer.done():
            return self.answer.result()
        return Failure(f"before it answered, {self.child.how_it_ended()}")

    def _answered(self, response: Response) -> None:
        if response.task_id != self._task_id or self.answer.done():
            self._health.dropped_responses += 1
            log.warning("dropped an answer to task %r, which is not in flight", response.task_id)
        else:
            self.answer.set_result(response.outcome())

    def _answered_too_long(self, line: LongLine) -> None:
        outcome = line.outcome(self._command.max_message_bytes)
        if self._task_id is not None and line.task_id() == self._task_id and not self.answer.done():
            self.answer.set_result(outcome)
        else:
            log.warning("%s; it answers no task in flight and is dropped", outcome.error)


class OneShot(BaseRunner):
    """Runs each task in a process of its own, never used again."""

    def __init__(self, name: str, command: Command, *, prestart: int = 1) -> None:
        """Prepare.

        Args:
            name: the parent queue.
            command: how to start a process.
            prestart: how many processes are kept started and ready for tasks to come.
        """
        super().__init__(name)
        self._command = command
        self._prestart = prestart
        self._spares: deque[asyncio.Task[_Run]] = deque()
        self._runs: dict[TakenTask, asyncio.Task[None]] = {}
        self._endings: set[asyncio.Task[int]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Start the first spare process, which shows that the code can start.

        Raises:
            ProcessNotReadyError: it cannot.
        """
        self._refill()
        if self._spares:
            await asyncio.shield(self._spares[0])
        self._became("ready")

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Begin each task in its own process."""
        for task in tasks:
            self._runs[task] = asyncio.ensure_future(self._run(task))

    async def _run(self, task: TakenTask) -> None:
        run: _Run | None = None
        try:
            run = await self._next_process()
            outcome = await run.execute(task)
        except ProcessNotReadyError as error:
            outcome = Failure(str(error))
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

    async def _next_process(self) -> _Run:
        while self._spares:
            spare = self._spares.popleft()
            self._refill()
            run = await spare
            if not run.child.exited.done():
                return run
        return await self._start_process()

    async def _start_process(self) -> _Run:
        run = _Run(self._command, self.health)
        await run.start()
        return run

    def _refill(self) -> None:
        while len(self._spares) < self._prestart and not self._stopping:
            spare = asyncio.ensure_future(self._start_process())
            spare.add_done_callback(_seen)
            self._spares.append(spare)

    def _end(self, run: _Run) -> None:
        ending = asyncio.ensure_future(run.child.stop(STOP_GRACE))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def abandon(self, task: TakenTask) -> None:
        """Kill the process group of a task; nothing is reported for it."""
        run = self._runs.pop(task, None)
        if run is not None:
            run.cancel()

    async def stop(self) -> None:
        """Kill what runs, stop the spares."""
        self._stopping = True
        self._became("stopped")
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        for spare in self._spares:
            if spare.done() and not spare.cancelled() and spare.exception() is None:
                self._end(spare.result())
            else:
                spare.cancel()
        await asyncio.gather(*runs, *self._spares, *self._endings, return_exceptions=True)


def _seen(spare: asyncio.Task[_Run]) -> None:
    if not spare.cancelled():
        spare.exception()  # it is raised where the spare is used; until then it must not be reported as lost
