"""Lines out of a stream of bytes, however long they are and however they are cut up."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT_OF_LONG_LINE = 4096
"""Bytes kept from the beginning, and from the end, of a line that is too long."""

KEPT_OF_PRINTING = 16 * 1024
"""Bytes kept from the beginning of a line that is no message: what the log takes of it."""


class LongLine(Struct, frozen=True):
    """What is left of a line longer than the limit.

    Attributes:
        size: bytes of the whole line.
        head, tail: its first and last bytes.
    """

    size: int
    head: bytes
    tail: bytes

    def outcome(self, limit: int) -> Failure:
        """What it means for the task it answers: the next attempt would say too much as well."""
        return Failure(
            f"a line of {self.size} bytes from the process is longer than worker.max_message_bytes ({limit})",
            retry=False,
        )

    def task_id(self) -> str | None:
        """The task that the line answers, if that can be seen from its beginning or its end."""
        return task_named_in(self.head, self.tail) if self.head.lstrip().startswith(b"{") else None


def task_named_in(line: bytes, end: bytes = b"") -> str | None:
    """The task that a line names which cannot be read as JSON, if that can be seen from its beginning or its end."""
    for part in (line[:KEPT_OF_LONG_LINE], (end or line)[-KEPT_OF_LONG_LINE:]):
        found = _TASK_ID.search(part)
        if found:
            try:
                return str(json.loads(found[1]))
            except ValueError:
                continue
    return None


_TASK_ID = re.compile(rb'"task_id"\s*:\s*("(?:[^"\\]|\\.)*")')


# A message is a JSON object. What begins otherwise is printing, of which the log keeps only a part.
_BEGINS_MESSAGE = re.compile(rb"\s{0,%d}\{" % KEPT_OF_PRINTING)


class LineSplitter:
    """Cuts a stream of bytes into lines and never holds more than one line of the allowed length.

    Of a line that can be no message, since it does not begin with ``{``, it holds no more than ``KEPT_OF_PRINTING``.
    """

    def __init__(self, limit: int) -> None:
        """Start with nothing.

        Args:
            limit: bytes of the longest line that is kept whole.
        """
        self._limit = limit
        self._always_whole = min(limit, KEPT_OF_PRINTING)
        self._start_anew()

    def _start_anew(self) -> None:
        self._size = 0  # of the line so far, with what is not held of it
        self._held = bytearray()  # one buffer: many small pieces would take many times their length
        self._cut = False
        self._tail = b""

    def feed(self, data: bytes) -> Iterator[bytes | LongLine]:
        """Add what was read; yields the lines that are now complete, without their line breaks.

        A line longer than ``KEPT_OF_PRINTING`` that can be no message is yielded as its beginning.
        """
        lines = data.split(b"\n")
        if len(lines) > 1:
            yield self._finish(lines[0])
            for line in lines[1:-1]:
                yield line if len(line) <= self._always_whole else self._finish(line)
        if lines[-1]:
            self._add(lines[-1])

    def rest(self) -> bytes | LongLine | None:
        """What came after the last line break, when the stream has ended."""
        return self._finish(b"") if self._size else None

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._cut:
            self._tail = (self._tail + piece[-KEPT_OF_LONG_LINE:])[-KEPT_OF_LONG_LINE:]
            return
        self._held += piece
        if self._size <= self._always_whole:
            return
        if self._size > self._limit or _BEGINS_MESSAGE.match(self._held) is None:
            self._cut = True
            self._tail = bytes(self._held[-KEPT_OF_LONG_LINE:])
            del self._held[KEPT_OF_PRINTING:]

    def _finish(self, last: bytes) -> bytes | LongLine:
        if not self._size and len(last) <= self._always_whole:
            return last
        self._add(last)
        held, size, tail = bytes(self._held), self._size, self._tail
        self._start_anew()
        return LongLine(size, held[:KEPT_OF_LONG_LINE], tail) if size > self._limit else held
