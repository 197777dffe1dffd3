"""One child process: its pipes, its process group, its end. The only module that starts supervised processes."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.process.command import Printed
from runqy_agent.process.descendants import Mark
from runqy_agent.process.lines import LineSplitter, LongLine
from runqy_agent.process.protocol import Ready, Response, StartFailed, decode_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.process.command import Command

log = logging.getLogger(__name__)
output_log = logging.getLogger("runqy_agent.process.output")

STDERR_LINES_KEPT = 20
MAX_LOG_LINE = 16 * 1024
"""Bytes of a printed line that reach the log."""

AFTERLIFE = 0.5
"""Seconds that descendants of an ended process may go on writing to its outputs."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Child:
    """A running process that speaks the task protocol.

    Attributes:
        pid: its process id, which is its process group too.
        ready: done when it said so; fails with ProcessNotReadyError.
        exited: done with its return code (negative: the signal) when it has ended and its output is read.
        reads: whether it reads what is written; if not, what is written now is kept in memory.
    """

    def __init__(
        self,
        command: Command,
        on_response: Callable[[Response], None],
        on_long_line: Callable[[LongLine], None],
        on_batch: Callable[[], None] = lambda: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; ``start`` starts.

        Args:
            command: what to start.
            on_response: called for every answer.
            on_long_line: called for a line over the limit.
            on_batch: called once after the answers that one read brought.
            on_room: called when it reads again what is written, after it did not for a while.
        """
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.reads = True
        self.stderr_tail: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._command = command
        self._on_response = on_response
        self._on_long_line = on_long_line
        self._on_batch = on_batch
        self._on_room = on_room
        self._mark = Mark()
        self._closed_stdout = False
        self._stdout = LineSplitter(command.max_message_bytes)
        self._stderr = LineSplitter(MAX_LOG_LINE)
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None

    async def start(self) -> None:
        """Start the process.

        Raises:
            ProcessNotReadyError: it cannot be started at all.
        """
        loop = asyncio.get_running_loop()
        creation = asyncio.ensure_future(
            loop.subprocess_exec(
                lambda: _Pipes(self),
                *self._command.argv,
                cwd=self._command.cwd,
                env=self._command.env | self._mark.environment,
                start_new_session=True,
            )
        )
        try:
            # Shielded: a creation that is cancelled leaves its process behind, and waits for pipes held by it.
            transport, _ = await asyncio.shield(creation)
        except asyncio.CancelledError:
            creation.add_done_callback(_kill_what_was_created)
            await asyncio.wait([creation])
            if not creation.cancelled() and creation.exception() is None:
                await asyncio.wait([self.exited])
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument or a variable
            what = shlex.join(self._command.argv)
            raise ProcessNotReadyError(f"{what} cannot be started in {self._command.cwd}: {error}") from error
        self._transport = transport
        self._stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(_STDIN))

    async def wait_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            ProcessNotReadyError: it said that it failed, ended, or took longer than its startup timeout.
        """
        timeout = self._command.startup_timeout
        try:
            await asyncio.wait_for(asyncio.shield(self.ready), timeout)
        except asyncio.TimeoutError:
            raise ProcessNotReadyError(
                f"the process of queue {self._command.label} was not ready within {timeout:g} s "
                f"(deployment.startup_timeout_secs){self.last_words()}"
            ) from None

    def write(self, data: bytes) -> None:
        """Send lines. Returns at once; what the pipe does not take is kept until it does."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """Tell the process that no more tasks will come."""
        if self._stdin is not None:
            self._stdin.close()

    async def stop(self, grace: float) -> int:
        """End the process: close its input and ask it to stop, after ``grace`` seconds kill its whole group.

        Returns:
            Its return code.
        """
        self.close_stdin()
        self._signal_group(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self.exited), grace)
        except asyncio.TimeoutError:
            log.warning(
                "process %d of queue %s did not stop within %g s, killing its group",
                self.pid,
                self._command.label,
                grace,
            )
        self.kill()
        return await asyncio.shield(self.exited)

    def kill(self) -> None:
        """Kill the whole process group, also what an ended process has left behind in it."""
        self._signal_group(signal.SIGKILL)

    def can_answer_no_more(self) -> None:
        """It has closed its standard output. If it goes on living, it is ended."""
        if not self.exited.done():
            self._closed_stdout = True
            self.kill()

    def last_words(self) -> str:
        """The last lines of its standard error, ready to stand behind an error text."""
        return "\n" + "\n".join(self.stderr_tail) if self.stderr_tail else ""

    def how_it_ended(self) -> str:
        """Exit code or signal, and the last lines of its standard error."""
        if not self.exited.done():
            return "the process is still running"
        code = self.exited.result()
        if self._closed_stdout and code == -signal.SIGKILL:
            return (
                f"the process closed its standard output, could not answer any more, and was killed{self.last_words()}"
            )
        how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        return f"the process {how}{self.last_words()}"

    def _signal_group(self, signum: signal.Signals) -> None:
        if not self.pid or self.exited.done():
            return
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return

    # Called by the pipes.

    def has_room(self, *, room: bool) -> None:
        """It takes what is written, or what is written has to wait."""
        self.reads = room
        if room:
            self._on_room()

    def received(self, fd: int, data: bytes) -> None:
        """Take what was read from one of its outputs."""
        if fd == _STDOUT:
            for line in self._stdout.feed(data):
                self._stdout_line(line)
            self._on_batch()
        else:
            for line in self._stderr.feed(data):
                self._stderr_line(line)

    def _stdout_line(self, line: bytes | LongLine) -> None:
        if isinstance(line, LongLine):
            self._on_long_line(line)
            return
        message = decode_line(line)
        if isinstance(message, Response):
            if message.error:
                message.error = self._command.redact(message.error)
            self._on_response(message)
        elif isinstance(message, Ready):
            if not self.ready.done():
                self.ready.set_result(None)
        elif isinstance(message, StartFailed):
            reason = self._command.redact(message.error)
            self._fail_ready(f"the process of queue {self._command.label} failed to start: {reason}")
        elif line:
            self._print("stdout", self._readable(line))

    def _stderr_line(self, line: bytes | LongLine) -> None:
        if isinstance(line, LongLine):
            text = self._command.redact_cut(line.head.decode("utf-8", "replace")) + f" … ({line.size} bytes in all)"
        else:
            text = self._readable(line)
        self.stderr_tail.append(text[:1000])
        self._print("stderr", text)

    def _readable(self, line: bytes) -> str:
        """What of a printed line is shown. A line of the full length may have been cut."""
        text = line[:MAX_LOG_LINE].decode("utf-8", "replace")
        return self._command.redact(text) if len(line) < MAX_LOG_LINE else self._command.redact_cut(text)

    def _print(self, source: str, text: str) -> None:
        self._command.on_print(Printed(source, text, self._command.label, self.pid))
        output_log.info("%s", text, extra={"queue": self._command.label, "source": source, "child": self.pid})

    def _fail_ready(self, text: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ProcessNotReadyError(text))
            self.ready.exception()  # marked as seen: nobody may be waiting any more

    def ended(self, returncode: int) -> None:
        """The process has ended and all its output is read."""
        for splitter, handle in ((self._stdout, self._stdout_line), (self._stderr, self._stderr_line)):
            rest = splitter.rest()
            if rest is not None:
                handle(rest)
        self._on_batch()
        if not self.exited.done():
            self.exited.set_result(returncode)
        self._mark.kill_bearers()
        self._fail_ready(f"before it was ready, {self.how_it_ended()}")


class _Pipes(asyncio.SubprocessProtocol):
    """Where asyncio delivers the output of a child."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._child.pid = self._transport.get_pid()  # before its first output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._child.received(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        # A process that closes its output and lives on can answer nothing any more.
        if fd == _STDOUT:
            asyncio.get_running_loop().call_later(AFTERLIFE, self._child.can_answer_no_more)

    def pause_writing(self) -> None:
        self._child.has_room(room=False)

    def resume_writing(self) -> None:
        self._child.has_room(room=True)

    def process_exited(self) -> None:
        # What it has forked may hold its pipes open: that must not keep its end from being noticed.
        loop = asyncio.get_running_loop()
        loop.call_later(AFTERLIFE, self._child.kill)
        loop.call_later(2 * AFTERLIFE, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        code = self._transport.get_returncode()
        self._child.ended(-1 if code is None else code)


def _kill_what_was_created(creation: asyncio.Future[tuple[asyncio.SubprocessTransport, Any]]) -> None:
    if not creation.cancelled() and creation.exception() is None:
        with suppress(ProcessLookupError):
            os.killpg(creation.result()[0].get_pid(), signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
