"""A process that is used for one task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runqy_agent.clock import monotonic
from runqy_agent.outcome import Failure
from runqy_agent.process.child import Child
from runqy_agent.process.crash import blame
from runqy_agent.process.memory import resident_memory
from runqy_agent.process.protocol import UnsendablePayloadError, encode_task
from runqy_agent.process.serving import STOP_GRACE

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command
    from runqy_agent.process.lines import LongLine
    from runqy_agent.process.protocol import Response
    from runqy_agent.process.runner import RunnerHealth


class SingleRun:
    """One process and the one answer that is wanted from it."""

    def __init__(self, command: Command, health: RunnerHealth) -> None:
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.child = Child(command, self)
        self.command = command
        self.memory = 0
        self._health = health
        self._task_id: str | None = None

    @property
    def busy(self) -> bool:
        """Whether it has its task."""
        return self._task_id is not None

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ProcessNotReadyError: it is not going to be.
        """
        await self.child.start()
        try:
            await self.child.wait_ready()
        except BaseException:
            await asyncio.shield(self.child.stop(STOP_GRACE))
            raise
        self.memory = resident_memory(self.child.pid)

    async def execute(self, task: TakenTask) -> Outcome:
        """Give it its task and wait for the answer, or for its end."""
        self._task_id = task.id
        now = monotonic()
        if task.is_over(now):  # its process took that long to start
            return Failure(task.deadline_error(now))
        try:
            line = encode_task(task)
        except UnsendablePayloadError as error:
            return Failure(str(error), retry=False)
        task.begin(now)
        self.child.write(line)
        await asyncio.wait((self.answer, self.child.exited), return_when=asyncio.FIRST_COMPLETED)
        if self.answer.done():
            return self.answer.result()
        return blame(task, self.child.how_it_ended())

    def awaits(self, task_id: str) -> bool:
        """Whether this is its task, and it is not answered."""
        return task_id == self._task_id and not self.answer.done()

    def answered(self, response: Response) -> bool:
        """Take the answer to its task. Returns whether it is that."""
        awaited = self.awaits(response.task_id)
        if awaited:
            self.answer.set_result(response.outcome())
        else:
            self._health.dropped_responses += 1
        return awaited

    def answered_too_long(self, line: LongLine) -> bool:
        """Fail its task if a line over the limit answers it. Returns whether it does."""
        awaited = self.awaits(line.task_id() or "")
        if awaited:
            self.answer.set_result(line.outcome(self.command.max_message_bytes))
        return awaited

    def batch_read(self) -> None:
        """Do nothing: whoever waits for the answer has been woken."""

    def can_write(self) -> None:
        """Do nothing: its one task is written at once."""
