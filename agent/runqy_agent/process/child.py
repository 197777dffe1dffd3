"""One child process: its pipes, its process group, its end. The only module that starts supervised processes."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
from typing import TYPE_CHECKING

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.process.descendants import Mark
from runqy_agent.process.lines import LineSplitter
from runqy_agent.process.outputs import MAX_LOG_LINE, Outputs
from runqy_agent.process.pipes import InputPipe, OutputPipe
from runqy_agent.spawning import spawn, watch_end

if TYPE_CHECKING:
    from runqy_agent.process.command import Command
    from runqy_agent.process.outputs import Receiver

log = logging.getLogger(__name__)

AFTERLIFE = 0.5
"""Seconds that descendants of an ended process may go on writing to its outputs."""


class Child:
    """A running process that speaks the task protocol.

    Attributes:
        pid: its process id, which is its process group too.
        ready: done when it said so; fails with ProcessNotReadyError.
        exited: done with its return code (negative: the signal) when it has ended and its output is read.
    """

    def __init__(self, command: Command, receiver: Receiver) -> None:
        """Prepare; ``start`` starts.

        Args:
            command: what to start.
            receiver: takes its answers.
        """
        self.pid = 0
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._command = command
        self._receiver = receiver
        self._outputs = Outputs(command, receiver)
        self.ready = self._outputs.ready
        self._mark = Mark()
        self._closed_stdout = False
        self._code: int | None = None
        self._stdin: InputPipe | None = None
        self._pipes: tuple[OutputPipe, ...] = ()

    async def start(self) -> None:
        """Start the process.

        Raises:
            ProcessNotReadyError: it cannot be started at all.
        """
        command, outputs = self._command, self._outputs
        environment = command.env | self._mark.environment
        try:
            started = await spawn(command.argv, command.cwd, environment, f"a process of queue {command.label}")
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument or a variable
            what = shlex.join(command.argv)
            raise ProcessNotReadyError(f"{what} cannot be started in {command.cwd}: {error}") from error
        self.pid = outputs.pid = started.pid
        self._stdin = InputPipe(started.stdin, self._receiver.can_write)
        messages, printing = LineSplitter(command.max_message_bytes), LineSplitter(MAX_LOG_LINE, answers=False)
        self._pipes = (
            OutputPipe(started.stdout, messages, outputs.stdout_line, outputs.stdout_turn, self._stdout_closed),
            OutputPipe(started.stderr, printing, outputs.stderr_line, outputs.stderr_turn, self._finish),
        )
        watch_end(self.pid, self._process_ended)

    @property
    def reads(self) -> bool:
        """Whether it reads what is written; if not, what is written now is kept in memory."""
        return self._stdin is None or self._stdin.reads

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
        if self._stdin is not None:
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

    # Its end: of its process, and of its outputs, in any order.

    def _stdout_closed(self) -> None:
        if self._code is None:  # it may live on, but can answer nothing any more
            asyncio.get_running_loop().call_later(AFTERLIFE, self._can_answer_no_more)
        self._finish()

    def _can_answer_no_more(self) -> None:
        if self._code is None:
            self._closed_stdout = True
            self.kill()

    def _process_ended(self, code: int) -> None:
        self._code = code
        self._finish()
        if not self.exited.done():
            # What it has forked holds its outputs open: that must not keep its end from being noticed.
            loop = asyncio.get_running_loop()
            loop.call_later(AFTERLIFE, self.kill)
            loop.call_later(2 * AFTERLIFE, self._close)

    def _close(self) -> None:
        for pipe in self._pipes:
            pipe.close()

    def _finish(self) -> None:
        """Report the end if the process has ended and all its output is read."""
        if self._code is None or not all(pipe.closed for pipe in self._pipes):
            return
        if self._stdin is not None:
            self._stdin.close(at_once=True)
        self._outputs.end()
        if not self.exited.done():
            self.exited.set_result(self._code)
        self._mark.kill_bearers()
        hint = "" if self._code else "; perhaps its main program does not call run()"
        self._outputs.fail_ready(f"before it was ready, {self.how_it_ended()}{hint}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
