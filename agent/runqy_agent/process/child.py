"""One child process: its pipes, its process group, its end. The only module that starts supervised processes."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.process.descendants import Mark
from runqy_agent.process.lines import LineSplitter
from runqy_agent.process.outputs import MAX_LOG_LINE, Outputs

if TYPE_CHECKING:
    from runqy_agent.process.command import Command
    from runqy_agent.process.outputs import Receiver

log = logging.getLogger(__name__)

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

    def __init__(self, command: Command, receiver: Receiver) -> None:
        """Prepare; ``start`` starts.

        Args:
            command: what to start.
            receiver: takes its answers.
        """
        self.pid = 0
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.reads = True
        self._command = command
        self._receiver = receiver
        self._outputs = Outputs(command, receiver)
        self.ready = self._outputs.ready
        self._mark = Mark()
        self._closed_stdout = False
        self._stdout = LineSplitter(command.max_message_bytes)
        self._stderr = LineSplitter(MAX_LOG_LINE, answers=False)
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
                f"(deployment.startup_timeout_secs){self._outputs.stderr_tail()}"
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

    def how_it_ended(self) -> str:
        """Exit code or signal, and the last lines of its standard error."""
        if not self.exited.done():
            return "the process is still running"
        code = self.exited.result()
        if self._closed_stdout and code == -signal.SIGKILL:
            how = "closed its standard output, could not answer any more, and was killed"
        else:
            how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        return f"the process {how}{self._outputs.stderr_tail()}"

    def _signal_group(self, signum: signal.Signals) -> None:
        if not self.pid or self.exited.done():
            return
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return

    # Called by the pipes.

    def started(self, pid: int) -> None:
        """It runs; called before its first output."""
        self.pid = self._outputs.pid = pid

    def has_room(self, *, room: bool) -> None:
        """It takes what is written, or what is written has to wait."""
        self.reads = room
        if room:
            self._receiver.can_write()

    def received(self, fd: int, data: bytes) -> None:
        """Take what was read from one of its outputs."""
        if fd == _STDOUT:
            for line in self._stdout.feed(data):
                self._outputs.stdout_line(line)
            self._receiver.batch_read()
        else:
            for line in self._stderr.feed(data):
                self._outputs.stderr_line(line)

    def ended(self, returncode: int) -> None:
        """The process has ended and all its output is read."""
        for splitter, handle in ((self._stdout, self._outputs.stdout_line), (self._stderr, self._outputs.stderr_line)):
            rest = splitter.rest()
            if rest is not None:
                handle(rest)
        self._receiver.batch_read()
        if not self.exited.done():
            self.exited.set_result(returncode)
        self._mark.kill_bearers()
        self._outputs.fail_ready(f"before it was ready, {self.how_it_ended()}")


class _Pipes(asyncio.SubprocessProtocol):
    """Where asyncio delivers the output of a child."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._child.started(self._transport.get_pid())

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
