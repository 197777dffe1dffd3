"""Writes the log in a thread of its own: whoever reads it may stop reading, and nothing else stops."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 4 * 1024 * 1024
"""Of lines that wait to be written. Once they are that much, lines are dropped until all of them are written."""
URGENT_BYTES = 256 * 1024
"""More that warnings and errors may take."""
CHUNK_BYTES = 16 * 1024
"""Written at once."""
FLUSH_SECONDS = 5.0
"""How long the end of the process waits for a reader who is slow."""
STUCK_SECONDS = 1.0
"""How long it waits for one who reads nothing at all."""
UNREAD = "nobody read the log"


class LogWriter:
    """A bounded queue of lines and the thread that writes them to a file descriptor, in order.

    A descriptor that refuses them (closed pipe, full disk) costs the lines and nothing else. In a forked process the
    queue begins empty, with a thread of its own.
    """

    def __init__(self, fd: int, notice: Callable[[int, str], str]) -> None:
        """Make one; the thread starts with the first line.

        Args:
            fd: where to write; a copy of it is kept.
            notice: makes the line that tells how many lines were dropped, and why.
        """
        self._fd = os.dup(fd)
        self._notice = notice
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()  # over a lock that a finalizer which logs may take again
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._thread: threading.Thread | None = None
        self._idle = False
        self._closing = False
        self._full = False
        self._dropped, self._reason = 0, UNREAD
        self._torn = False
        self._chunks = 0
        self._gave_up_at = -1

    def put(self, text: str, *, urgent: bool = False) -> None:
        """Take a line, or count it as dropped. Return at once."""
        if self._pid != os.getpid():
            self._begin()
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._full and not urgent:
                fits = False
            else:
                fits = not self._lines or self._size + len(line) <= MAX_BYTES + (URGENT_BYTES if urgent else 0)
            if not fits:
                self._full = True
                self._drop(1, UNREAD)
                return
            self._lines.append(line)
            self._size += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            elif self._idle:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, but not for long, and not for a reader who reads nothing."""
        deadline = time.monotonic() + FLUSH_SECONDS
        with self._changed:
            while not self._all_written() and self._gave_up_at != self._chunks and time.monotonic() < deadline:
                if not self._wait_for_progress(self._chunks):
                    self._gave_up_at = self._chunks

    def _wait_for_progress(self, chunks: int) -> bool:
        return self._changed.wait_for(lambda: self._all_written() or self._chunks != chunks, STUCK_SECONDS)

    def close(self) -> None:
        """Flush, and let the thread end."""
        self.flush()
        with self._changed:
            if self._thread is None and not self._closing:
                os.close(self._fd)
            self._closing = True
            self._changed.notify_all()

    def _all_written(self) -> bool:
        return self._thread is None or (self._idle and not self._lines)

    def _drop(self, lines: int, reason: str) -> None:
        self._dropped += lines
        self._reason = reason

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._full:
                    self._idle = True
                    self._changed.notify_all()
                    if self._closing:
                        os.close(self._fd)
                        return
                    self._changed.wait()
                self._idle = False
                chunk = self._next_chunk()
                # What was dropped came after all that waited then.
                told = self._dropped if not chunk or not self._full else 0
                self._full = self._full and bool(chunk)
                reason = self._reason
            notice = [self._notice(told, reason).encode() + b"\n"] if told else []
            trouble = self._write(b"".join([b"\n"] * self._torn + notice + chunk))
            with self._changed:
                if trouble:
                    self._drop(len(chunk), trouble)
                else:
                    self._dropped -= told
                self._chunks += 1
                self._changed.notify_all()

    def _next_chunk(self) -> list[bytes]:
        chunk: list[bytes] = []
        room = CHUNK_BYTES
        while self._lines and room > 0:
            line = self._lines.popleft()
            self._size -= len(line)
            room -= len(line)
            chunk.append(line)
        return chunk

    def _write(self, data: bytes) -> str:
        """Write all of it. Return what is wrong, or ""."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._write_some(left) :]
        except OSError as error:
            self._torn = len(left) < len(data)
            return f"writing the log failed: {error.strerror or error}"
        self._torn = False
        return ""

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody else has made it non-blocking
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(1000)
            return 0
