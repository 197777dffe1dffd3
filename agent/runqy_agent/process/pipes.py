"""The agent's ends of the pipes to a process."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runqy_agent.process.lines import LineSplitter, LongLine

READ_BYTES = 256 * 1024
"""Read at once."""
TURN_SECONDS = 0.005
"""How long lines are taken before the event loop gets its turn again; looked at after so many:"""
LINES_AT_ONCE = 64
LAST_BYTES = 4 * 1024 * 1024
"""Read at most when a pipe is closed that somebody still holds: more than a pipe has room for."""
MOST_UNWRITTEN = 64 * 1024
"""Bytes kept that the process does not read yet, before whoever writes is asked to wait."""


class InputPipe:
    """The standard input of a process: what it does not read yet is kept until it does.

    Attributes:
        reads: whether the process reads what is written; if not, what is written now is kept in memory.
    """

    def __init__(self, descriptor: int, on_room: Callable[[], None]) -> None:
        """Take over the descriptor.

        Args:
            descriptor: of the pipe's end.
            on_room: called when the process reads again, after it did not for a while.
        """
        self.reads = True
        self._descriptor = descriptor
        self._on_room = on_room
        self._unwritten = bytearray()
        self._closing = False
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Write as much as the pipe takes now, and the rest as soon as it does."""
        if self._descriptor < 0 or self._closing:
            return
        if not self._unwritten:
            data = data[self._try(data) :]
            if data and self._descriptor >= 0:
                self._loop.add_writer(self._descriptor, self._writable)
        self._unwritten += data
        self.reads = len(self._unwritten) < MOST_UNWRITTEN

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:  # the process has closed it, or has ended: its end is noticed elsewhere
            self._close()
            return len(data)

    def _writable(self) -> None:
        del self._unwritten[: self._try(self._unwritten)]
        if not self._unwritten and self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            if self._closing:
                self._close()
        if not self.reads and not self._unwritten:
            self.reads = True
            self._on_room()

    def close(self, *, at_once: bool = False) -> None:
        """Close the pipe, by default when what was written has left."""
        self._closing = True
        if at_once or not self._unwritten:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class OutputPipe:
    """One output of a process, read line by line.

    However much it is: lines are taken for a bounded time, then the event loop has its turn. Nothing is read meanwhile,
    so that in the end the process waits.

    Attributes:
        closed: whether it has been read to its end.
    """

    def __init__(
        self,
        descriptor: int,
        splitter: LineSplitter,
        on_line: Callable[[bytes | LongLine], None],
        on_turn: Callable[[], bool],
        on_end: Callable[[], None],
    ) -> None:
        """Take over the descriptor and begin to read.

        Args:
            descriptor: of the pipe's end.
            splitter: cuts what is read into lines.
            on_line: takes each line.
            on_turn: called after the lines of a turn; returns whether others should have the loop as long as they had.
            on_end: called when there is no more to be read.
        """
        self.closed = False
        self._descriptor = descriptor
        self._splitter = splitter
        self._on_line = on_line
        self._on_turn = on_turn
        self._on_end = on_end
        self._lines: Iterator[bytes | LongLine] = iter(())
        self._paused: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._lines = self._splitter.feed(data)
            self._turn()
        else:
            self._end()

    def _turn(self) -> None:
        began = self._loop.time()
        paused, self._paused = self._paused, None
        while (more := self._take(LINES_AT_ONCE)) and self._loop.time() - began < TURN_SECONDS:
            pass
        others_first = self._on_turn()
        if self.closed:
            return
        if more or others_first:
            if paused is None:
                self._loop.remove_reader(self._descriptor)
            pause = self._loop.time() - began if others_first else 0.0
            self._paused = self._loop.call_later(pause, self._turn)
        elif paused is not None:
            self._loop.add_reader(self._descriptor, self._readable)

    def _take(self, most: int | None) -> bool:
        """Take lines that were read, at most so many. Returns whether there may be more."""
        taken = 0
        for line in islice(self._lines, most):
            taken += 1
            self._on_line(line)
        return taken == most

    def close(self) -> None:
        """Take what there is to be read now, and close it: whoever holds its other end is not listened to any more."""
        if self.closed:
            return
        self._take(None)
        for _ in range(LAST_BYTES // READ_BYTES):
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except OSError:  # also: nothing to be read now
                break
            if not data:
                break
            self._lines = self._splitter.feed(data)
            self._take(None)
        self._end()

    def _end(self) -> None:
        self.closed = True
        if self._paused is not None:
            self._paused.cancel()
        else:
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        rest = self._splitter.rest()
        if rest is not None:
            self._on_line(rest)
        self._on_turn()
        self._on_end()
