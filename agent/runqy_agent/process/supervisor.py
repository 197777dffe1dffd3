"""The long-running process of one parent queue: started once, fed with tasks, started again when it crashes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure, Unstarted
from runqy_agent.process.child import Child
from runqy_agent.process.protocol import Response, UnsendablePayloadError, encode_task
from runqy_agent.process.runner import BaseRunner, InFlight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command
    from runqy_agent.process.lines import LongLine
    from runqy_agent.process.recovery import Recovery

log = logging.getLogger(__name__)

STOP_GRACE = 5.0
"""Seconds between asking a process to stop and killing its group."""

HUNG_GRACE = 5.0
"""Seconds a process may go on with a task that nobody waits for, before it is restarted."""


@dataclass(slots=True)
class _Abandoned:
    """A task that nobody waits for, and the ids that the process was given before it and has not answered."""

    task: TakenTask
    before: set[str]
    timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Supervisor(BaseRunner):
    """Runs tasks in one long-running process.

    Up to the worker's concurrency of tasks are written ahead; the process answers in any order.
    """

    def __init__(self, name: str, command: Command, recovery: Recovery, *, fail_all: bool = False) -> None:
        """Prepare; ``start`` starts.

        Args:
            name: the parent queue.
            command: how to start the process.
            recovery: when to start it again.
            fail_all: after a crash every task in flight fails, not only the one that was being executed.
        """
        super().__init__(name)
        self._command = command
        self._recovery = recovery
        self._fail_all = fail_all
        self._in_flight = InFlight()
        self._abandoned: dict[str, _Abandoned] = {}
        self._child: Child | None = None
        self._stopping = False
        self._hung = ""

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ProcessNotReadyError: it is not going to be.
        """
        child = Child(self._command, self._answered, self._answered_too_long, self._wake)
        self._child = child
        await child.start()
        log.info("process %d of queue %s started, waiting until it is ready", child.pid, self.name)
        try:
            await child.wait_ready()
        except BaseException:
            await asyncio.shield(child.stop(STOP_GRACE))
            raise
        self._recovery.became_ready()
        self._became("ready")
        log.info("process %d of queue %s is ready", child.pid, self.name)

    async def watch(self) -> None:
        """Notice the end of the process, account for its tasks, and start it again as the recovery rules say."""
        while not self._stopping:
            if self._child is None or not self.ready:
                raise AssertionError("watched before it was ready")
            await asyncio.shield(self._child.exited)
            if self._stopping:
                return
            await self._ended(self._child)
            while not self._stopping and not self.ready:
                await self._restart()

    async def _ended(self, child: Child) -> None:
        self.ready = False
        child.kill()
        self._forget_abandoned()
        tasks = self._in_flight.take_all()
        reason, self._hung = self._hung, ""
        why = f"the process was restarted: {reason}" if reason else child.how_it_ended()
        guilty = 0 if reason else (len(tasks) if self._fail_all else 1)
        for task in tasks[:guilty]:
            self._sink.finished(task, Failure(why))
        for task in reversed(tasks[guilty:]):
            self._sink.finished(task, Unstarted())
        if reason:
            self._became("recovering", why)
        else:
            log.error(
                "process %d of queue %s crashed with %d tasks in flight: %s", child.pid, self.name, len(tasks), why
            )
            await self._back_off(why)
        self._wake()

    async def _restart(self) -> None:
        try:
            await self.start()
        except ProcessNotReadyError as error:
            log.error("queue %s: %s", self.name, error)  # noqa: TRY400  # the text says it all
            await self._back_off(str(error))

    async def _back_off(self, why: str) -> None:
        delay = self._recovery.crashed()
        self.health.consecutive_fails = self._recovery.consecutive_fails
        self.health.total_restarts = self._recovery.total_restarts
        if delay is None:
            self._became("degraded", why)
            log.error("queue %s takes no more tasks until the worker is restarted: %s", self.name, why)
            await asyncio.get_running_loop().create_future()  # until cancelled
        else:
            self._became("recovering", why)
            log.warning("starting the process of queue %s again in %.1f s", self.name, delay)
            await asyncio.sleep(delay)

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Write tasks to the process, in one piece."""
        if not self.ready or self._child is None:
            for task in reversed(tasks):
                self._sink.finished(task, Unstarted())
            self._wake()
            return
        self._child.write(b"".join([self._line(task) for task in tasks if self._in_flight.add(task)]))

    def _line(self, task: TakenTask) -> bytes:
        try:
            return encode_task(task)
        except UnsendablePayloadError as error:
            self._finish(task, Failure(str(error), retry=False))
            self._wake()
            return b""

    def abandon(self, task: TakenTask) -> None:
        """Forget a task. A process that does not answer it soon after all is still busy with it, and is restarted.

        What was written before it comes first: until that is answered the process has no reason to be busy with it.
        """
        written = list(self._in_flight.tasks)
        if self._in_flight.remove(task) and task.id not in self._abandoned and self._child is not None:
            before = {*written[: written.index(task.id)], *self._abandoned}
            self._abandoned[task.id] = _Abandoned(task, before)
            self._watch_next(self._child)

    def _watch_next(self, child: Child) -> None:
        """Give the process its time for the abandoned task that it is busy with now, if it is."""
        for abandoned in self._abandoned.values():
            if not abandoned.before and abandoned.timer is None:
                loop = asyncio.get_running_loop()
                abandoned.timer = loop.call_later(HUNG_GRACE, self._still_busy, child, abandoned.task)

    def _forget_abandoned(self) -> None:
        for abandoned in self._abandoned.values():
            abandoned.cancel()
        self._abandoned.clear()

    def _still_busy(self, child: Child, task: TakenTask) -> None:
        self._abandoned.pop(task.id, None)
        if child is self._child and self.ready and not self._stopping:
            self._hung = f"it was still busy with task {task.id}, which is over"
            log.warning("restarting process %d of queue %s: %s", child.pid, self.name, self._hung)
            self.ready = False
            self._stop_task = asyncio.ensure_future(child.stop(STOP_GRACE))

    def _answered(self, response: Response) -> None:
        task = self._in_flight.tasks.get(response.task_id)
        if task is None:
            abandoned = self._abandoned.pop(response.task_id, None)
            if abandoned is not None:
                abandoned.cancel()
                self._let_next(response.task_id)
            self.health.dropped_responses += 1
            log.warning("queue %s: dropped an answer to task %r, which is not in flight", self.name, response.task_id)
            return
        self._finish(task, response.outcome())

    def _answered_too_long(self, line: LongLine) -> None:
        outcome = line.outcome(self._command.max_message_bytes)
        task = self._in_flight.tasks.get(line.task_id() or "")
        if task is None:
            log.warning("queue %s: %s; it answers no task in flight and is dropped", self.name, outcome.error)
        else:
            self._finish(task, outcome)

    def _finish(self, task: TakenTask, outcome: Outcome) -> None:
        del self._in_flight.tasks[task.id]
        self._sink.finished(task, outcome)
        self._let_next(task.id)

    def _let_next(self, task_id: str) -> None:
        """The process is through with this id: whichever task of the same id waited is written now."""
        if self._child is None:
            return
        if self._abandoned:
            for abandoned in self._abandoned.values():
                abandoned.before.discard(task_id)
            self._watch_next(self._child)
        if self._in_flight.waiting:
            waiting = self._in_flight.next_waiting(task_id)
            if waiting is not None:
                self._child.write(self._line(waiting))

    def _wake(self) -> None:
        self._sink.wake()

    async def stop(self) -> None:
        """Stop the process; tasks it has not answered are not reported any more."""
        self._stopping = True
        self._became("stopped")
        self._forget_abandoned()
        if self._child is not None and self._child.pid:
            await self._child.stop(STOP_GRACE)
