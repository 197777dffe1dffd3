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
TELL_SECONDS = 5.0
"""Between two lines that tell how much was left out."""


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
        self._stderr_tail: deque[bytes | LongLine] = deque(maxlen=STDERR_LINES_KEPT)
        self._left_out = 0
        self._left_out_bytes = 0
        self._floods = False
        self._telling: asyncio.TimerHandle | None = None

    def stderr_tail(self) -> str:
        """The last lines of its standard error, ready to stand behind an error text."""
        return "".join("\n" + self._readable(line)[:1000] for line in self._stderr_tail)

    def stdout_turn(self) -> bool:
        """Lines that were read together are taken. Returns whether some of them were left out of the log."""
        self._receiver.batch_read()
        return self.stderr_turn()

    def stderr_turn(self) -> bool:
        """Take note of the same, of the other output."""
        floods, self._floods = self._floods, False
        return floods

    def end(self) -> None:
        """There is nothing more to come."""
        if self._telling is not None:
            self._telling.cancel()
            self._tell_left_out()

    def fail_ready(self, text: str) -> None:
        """It is not going to be ready, if it is not yet."""
        if not self.ready.done():
            self.ready.set_exception(ProcessNotReadyError(text))
            self.ready.exception()  # marked as seen: nobody may be waiting any more

    def stdout_line(self, line: bytes | LongLine) -> None:
        """Take a line of its standard output."""
        if isinstance(line, LongLine):
            if not self._receiver.answered_too_long(line):
                self._print("stdout", line)
        elif (answer := decode_answer(line)) is not None:
            self._answer(answer, line)
        elif self.ready.done() or not self._starting(line):
            self._printing(line)

    def _answer(self, answer: Response, line: bytes) -> None:
        if answer.error:
            answer.error = self._command.redact(answer.error)
        if not self._receiver.answered(answer):
            self._print("stdout", line, f"dropped an answer to task {answer.task_id!r}, which is not in flight: ")

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
            self._print("stdout", line)
        for answer in answers:
            self.stdout_line(answer)

    def _tells_progress(self, line: bytes) -> bool:
        task_id = progressing_task(line)
        return task_id is not None and self._receiver.awaits(task_id)

    def stderr_line(self, line: bytes | LongLine) -> None:
        """Take a line of its standard error."""
        self._stderr_tail.append(line if isinstance(line, LongLine) else line[:MAX_LOG_LINE])
        self._print("stderr", line)

    def _readable(self, line: bytes | LongLine) -> str:
        """What of a printed line is shown. A line of the full length may have been cut."""
        if isinstance(line, LongLine):
            return f"{self._command.redact_cut(line.head.decode('utf-8', 'replace'))} … ({line.size} bytes in all)"
        text = line[:MAX_LOG_LINE].decode("utf-8", "replace")
        return self._command.redact(text) if len(line) < MAX_LOG_LINE else self._command.redact_cut(text)

    def _print(self, source: str, line: bytes | LongLine, prefix: str = "") -> None:
        size = line.size if isinstance(line, LongLine) else len(line)
        if self._command.budget.allows(min(size, MAX_LOG_LINE)):
            self._log(source, prefix + self._readable(line))
            return
        self._floods = True
        self._left_out += 1
        self._left_out_bytes += size
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell_left_out)

    def _tell_left_out(self) -> None:
        self._telling = None
        much = f"{self._left_out:,} lines ({self._left_out_bytes:,} bytes)"
        self._log(
            "stderr", f"… {much} left out: the processes of queue {self._command.label} print faster than the log takes"
        )
        self._left_out = self._left_out_bytes = 0

    def _log(self, source: str, text: str) -> None:
        self._command.on_print(Printed(source, text, self._command.label, self.pid))
        output_log.info("%s", text, extra={"queue": self._command.label, "source": source, "child": self.pid})
