"""One life of a long-running process: the tasks it was given, and what becomes of them when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.clock import monotonic
from runqy_agent.outcome import Failure, Unstarted
from runqy_agent.process.child import Child
from runqy_agent.process.crash import blame
from runqy_agent.process.protocol import Response, UnsendablePayloadError, encode_task
from runqy_agent.process.runner import InFlight
from runqy_agent.process.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command
    from runqy_agent.process.lines import LongLine
    from runqy_agent.process.runner import RunnerHealth, Sink

log = logging.getLogger(__name__)

STOP_GRACE = 5.0
"""Seconds between asking a process to stop and killing its group."""

HUNG_GRACE = 5.0
"""Seconds a process may go on with a task that nobody waits for, before it is restarted."""

WRITE_BYTES = 64 * 1024
"""Of tasks encoded at once. The rest waits as it is until the process has read so much."""


@dataclass(frozen=True)
class Reports:
    """Where a serving process reports.

    Attributes:
        sink: takes the outcomes of its tasks.
        health: of the parent queue; dropped answers are counted there.
        fail_all: after a crash every task in flight fails, not only the one that was being executed.
    """

    sink: Sink
    health: RunnerHealth
    fail_all: bool = False


class ServingProcess:
    """A process that takes tasks ahead and answers in any order. When it ends it accounts for all it had.

    Attributes:
        child: the process.
        alive: it has become ready and has not ended.
        hung: why it is being restarted; "" if it is not.
        given: how many tasks it was given.
        on_hung: called when it is being restarted because it hangs; it takes no tasks any more.
        on_end: called once it has ended and its tasks are accounted for; not if it has never been ready.
    """

    def __init__(self, command: Command, reports: Reports) -> None:
        self.child = Child(command, self)
        self.alive = False
        self.hung = ""
        self.given = 0
        self.on_hung: Callable[[], None] = lambda: None
        self.on_end: Callable[[ServingProcess], None] = lambda _: None
        self._command = command
        self._reports = reports
        self._in_flight = InFlight()
        self._unwritten: deque[TakenTask] = deque()
        self._writing = False
        self._turns = Turns()
        self._abandoned: dict[str, TakenTask] = {}
        self._patience: dict[str, asyncio.TimerHandle] = {}
        self._idle = asyncio.Event()
        self._stopping: asyncio.Future[int] | None = None

    @property
    def load(self) -> int:
        """How many tasks it has and has not answered, also those that nobody waits for any more."""
        return len(self._in_flight.tasks) + len(self._in_flight.waiting) + len(self._abandoned)

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ProcessNotReadyError: it is not going to be.
        """
        await self.child.start()
        log.info("process %d of queue %s started, waiting until it is ready", self.child.pid, self._command.label)
        try:
            await self.child.wait_ready()
        except BaseException:
            await asyncio.shield(self.child.stop(STOP_GRACE))
            raise
        self.alive = True
        self.child.exited.add_done_callback(lambda _: self._ended())
        log.info("process %d of queue %s is ready", self.child.pid, self._command.label)

    # Tasks.

    def give(self, tasks: Sequence[TakenTask]) -> None:
        """Write tasks to the process, in one piece as far as its pipe takes them."""
        self.given += len(tasks)
        for task in tasks:
            if self._in_flight.add(task, self._abandoned):
                self._unwritten.append(task)
        self._write()

    def can_write(self) -> None:
        """Write what has waited."""
        self._write()

    def _write(self) -> None:
        if self._writing:  # a task that is not to be written has let another one in: it comes behind those at hand
            return
        self._writing = True
        try:
            while self._unwritten and self.child.reads:
                self._write_some()
        finally:
            self._writing = False

    def _write_some(self) -> None:
        lines: list[bytes] = []
        size = 0
        now = monotonic()
        while self._unwritten and size < WRITE_BYTES:
            lines.append(self._line(self._unwritten.popleft(), now))
            size += len(lines[-1])
        self.child.write(b"".join(lines))

    def _line(self, task: TakenTask, now: float) -> bytes:
        if task.is_over(now):
            return self._do_not_write(task, Failure(task.deadline_error(now)))
        try:
            line = encode_task(task)
        except UnsendablePayloadError as error:
            return self._do_not_write(task, Failure(str(error), retry=False))
        self._turns.written(task, now)
        return line

    def _do_not_write(self, task: TakenTask, outcome: Outcome) -> bytes:
        self._finish(task, outcome)
        self._reports.sink.wake()
        return b""

    def abandon(self, task: TakenTask) -> bool:
        """Forget a task. A process that does not answer it soon after all is still busy with it, and is restarted.

        Its time for that begins when the task's turn has come: before, it has no reason to be busy with it.

        Returns:
            Whether the task was here.
        """
        if task in self._in_flight.waiting:
            self._in_flight.remove(task)
            self._note_idle()
            return True
        if not self._in_flight.remove(task):
            return False
        if task.written_at:
            self._abandoned[task.id] = task
            self._lose_patience()
        else:
            self._unwritten.remove(task)
            self._let_next(task.id)
        return True

    def _lose_patience(self) -> None:
        """Give the process its time for each abandoned task that it is at now."""
        for task in self._abandoned.values():
            if task.id not in self._patience and self._turns.is_at(task):
                loop = asyncio.get_running_loop()
                self._patience[task.id] = loop.call_later(HUNG_GRACE, self._still_busy, task)

    def _still_busy(self, task: TakenTask) -> None:
        if self.alive and self._stopping is None:
            self.hung = f"it was still busy with task {task.id}, which is over"
            log.warning(
                "restarting process %d of queue %s: %s",
                *(self.child.pid, self._command.label, self.hung),
                extra={"queue": task.queue, "task": task.id},
            )
            self._begin_stop()
            self.on_hung()

    def awaits(self, task_id: str) -> bool:
        """Whether the process was given this task and has not answered it."""
        task = self._in_flight.tasks.get(task_id)
        return (task is not None and task.written_at > 0) or task_id in self._abandoned

    def answered(self, response: Response) -> bool:
        """Finish the task that is answered. Returns whether it was in flight."""
        task = self._through(response.task_id)
        if task is not None:
            self._finish(task, response.outcome())
            return True
        self._reports.health.dropped_responses += 1
        return False

    def answered_too_long(self, line: LongLine) -> bool:
        """Fail the task that a line over the limit answers. Returns whether there is one in flight."""
        task = self._through(line.task_id() or "")
        if task is not None:
            self._finish(task, line.outcome(self._command.max_message_bytes))
        return task is not None

    def _through(self, task_id: str) -> TakenTask | None:
        """The process is through with this id. Returns its task; None if it was not given it, or that is over."""
        task = self._in_flight.tasks.get(task_id)
        if task is not None and task.written_at:
            self._turns.answered(task, monotonic())
            return task
        abandoned = self._abandoned.pop(task_id, None)
        if abandoned is not None:
            self._turns.answered(abandoned, monotonic())
            if task_id in self._patience:
                self._patience.pop(task_id).cancel()
            self._let_next(task_id)
        return None

    def _finish(self, task: TakenTask, outcome: Outcome) -> None:
        del self._in_flight.tasks[task.id]
        self._reports.sink.finished(task, outcome)
        self._let_next(task.id)

    def _let_next(self, task_id: str) -> None:
        """The process is through with this id: whichever task of the same id waited is written now."""
        if self._abandoned:
            self._lose_patience()
        if self._in_flight.waiting:
            waiting = self._in_flight.next_waiting(task_id)
            if waiting is not None:
                self._unwritten.append(waiting)
                self._write()
        self._note_idle()

    def batch_read(self) -> None:
        """Have the outcomes written that were reported one by one."""
        self._reports.sink.wake()

    # Its end.

    async def drained(self) -> None:
        """Wait until it has nothing to do, or has ended."""
        while self.alive and self.load:
            self._idle.clear()
            await self._idle.wait()

    def _note_idle(self) -> None:
        if not self.load:
            self._idle.set()

    def _begin_stop(self) -> asyncio.Future[int]:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self.child.stop(STOP_GRACE))
        return self._stopping

    async def stop(self) -> None:
        """Stop the process; tasks it has not answered are not reported any more."""
        self.on_end = lambda _: None
        self._in_flight.take_all()
        self._unwritten.clear()
        self._forget_abandoned()
        if self.child.pid:
            await asyncio.shield(self._begin_stop())

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, and takes no tasks any more."""
        return self._stopping is not None

    def _ended(self) -> None:
        self.alive = False
        tasks = self._in_flight.take_all()
        guilty: list[TakenTask] = []
        if not self.hung:
            guilty = tasks if self._reports.fail_all else self._turns.guilty(tasks, self._abandoned.values())
        self._forget_abandoned()
        self._unwritten.clear()
        for task in guilty:
            self._reports.sink.finished(task, blame(task, self.child.how_it_ended()))
        blamed = set(guilty)
        for task in reversed(tasks):
            if task not in blamed:
                self._reports.sink.finished(task, Unstarted())
        if not self.hung and not self.stopping:
            log.error(
                "process %d of queue %s crashed with %d tasks in flight: %s",
                *(self.child.pid, self._command.label, len(tasks), self.child.how_it_ended()),
                extra={"queue": self._command.label} | ({"task": guilty[0].id} if guilty else {}),
            )
        self._idle.set()
        self._reports.sink.wake()
        self.on_end(self)

    def _forget_abandoned(self) -> None:
        for patience in self._patience.values():
            patience.cancel()
        self._patience.clear()
        self._abandoned.clear()
