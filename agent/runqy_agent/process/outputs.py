"""What a process writes: answers go to whoever waits for them, everything else to the log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.process.command import Printed
from runqy_agent.process.glued import split_glued
from runqy_agent.process.lines import LongLine
from runqy_agent.process.protocol import Ready, decode_answer, decode_start, progressing_task

if TYPE_CHECKING:
    from runqy_agent.process.command import Command
    from runqy_agent.process.protocol import Response

output_log = logging.getLogger("runqy_agent.process.output")

STDERR_LINES_KEPT = 20
MAX_LOG_LINE = 16 * 1024
"""Bytes of a printed line that reach the log."""


class Receiver(Protocol):
    """Whoever waits for the answers of a process."""

    def awaits(self, task_id: str) -> bool:
        """Whether the process was given a task of this id and has not answered it."""

    def answered(self, response: Response) -> bool:
        """Take an answer. Returns whether it was one to a task in flight."""

    def answered_too_long(self, line: LongLine) -> bool:
        """Take a line over the limit. Returns whether it was an answer to a task in flight."""

    def batch_read(self) -> None:
        """Called once after the answers that were read together."""

    def can_write(self) -> None:
        """The process reads again what is written, after it did not for a while."""


class Outputs:
    """Understands the lines of one process.

    Attributes:
        ready: done when the process said so; fails with ProcessNotReadyError.
        pid: of the process, for the log.
    """

    def __init__(self, command: Command, receiver: Receiver) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pid = 0
        self._command = command
        self._receiver = receiver
        self._stderr_tail: deque[str] = deque(maxlen=STDERR_LINES_KEPT)

    def stderr_tail(self) -> str:
        """The last lines of its standard error, ready to stand behind an error text."""
        return "\n" + "\n".join(self._stderr_tail) if self._stderr_tail else ""

    def fail_ready(self, text: str) -> None:
        """It is not going to be ready, if it is not yet."""
        if not self.ready.done():
            self.ready.set_exception(ProcessNotReadyError(text))
            self.ready.exception()  # marked as seen: nobody may be waiting any more

    def stdout_line(self, line: bytes | LongLine) -> None:
        """Take a line of its standard output."""
        if isinstance(line, LongLine):
            if not self._receiver.answered_too_long(line):
                self._print("stdout", self._beginning(line))
        elif (answer := decode_answer(line)) is not None:
            self._answer(answer, line)
        elif self.ready.done() or not self._starting(line):
            self._printing(line)

    def _answer(self, answer: Response, line: bytes) -> None:
        if answer.error:
            answer.error = self._command.redact(answer.error)
        if not self._receiver.answered(answer):
            task = f"task {answer.task_id!r}, which is not in flight"
            self._print("stdout", f"dropped an answer to {task}: {self._readable(line)}")

    def _starting(self, line: bytes) -> bool:
        """Whether the line says how the start went."""
        said = decode_start(line)
        if isinstance(said, Ready):
            self.ready.set_result(None)
        elif said is not None:
            reason = self._command.redact(said.error)
            self.fail_ready(f"the process of queue {self._command.label} failed to start: {reason}")
        return said is not None

    def _printing(self, line: bytes) -> None:
        """Log what is no message, but for the answers that it ends with."""
        line, answers = split_glued(line, self._receiver.awaits)
        if line and not self._tells_progress(line):
            self._print("stdout", self._readable(line))
        for answer in answers:
            self.stdout_line(answer)

    def _tells_progress(self, line: bytes) -> bool:
        task_id = progressing_task(line)
        return task_id is not None and self._receiver.awaits(task_id)

    def stderr_line(self, line: bytes | LongLine) -> None:
        """Take a line of its standard error."""
        text = self._beginning(line) if isinstance(line, LongLine) else self._readable(line)
        self._stderr_tail.append(text[:1000])
        self._print("stderr", text)

    def _beginning(self, line: LongLine) -> str:
        return self._command.redact_cut(line.head.decode("utf-8", "replace")) + f" … ({line.size} bytes in all)"

    def _readable(self, line: bytes) -> str:
        """What of a printed line is shown. A line of the full length may have been cut."""
        text = line[:MAX_LOG_LINE].decode("utf-8", "replace")
        return self._command.redact(text) if len(line) < MAX_LOG_LINE else self._command.redact_cut(text)

    def _print(self, source: str, text: str) -> None:
        self._command.on_print(Printed(source, text, self._command.label, self.pid))
        output_log.info("%s", text, extra={"queue": self._command.label, "source": source, "child": self.pid})
