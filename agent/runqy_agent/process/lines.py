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
        if not self.head.lstrip().startswith(b"{"):
            return None
        for part in (self.head, self.tail):
            found = _TASK_ID.search(part)
            if found:
                try:
                    return str(json.loads(found[1]))
                except ValueError:
                    continue
        return None


_TASK_ID = re.compile(rb'"task_id"\s*:\s*("(?:[^"\\]|\\.)*")')


class LineSplitter:
    """Cuts a stream of bytes into lines and never holds more than one line of the allowed length."""

    def __init__(self, limit: int) -> None:
        """Start with nothing.

        Args:
            limit: bytes of the longest line that is kept whole.
        """
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._long: tuple[int, bytes] | None = None
        self._tail = b""

    def feed(self, data: bytes) -> Iterator[bytes | LongLine]:
        """Add what was read; yields the lines that are now complete, without their line breaks."""
        lines = data.split(b"\n")
        if len(lines) > 1:
            yield self._finish(lines[0])
            for line in lines[1:-1]:
                yield line if len(line) <= self._limit else self._finish(line)
        if lines[-1]:
            self._add(lines[-1])

    def rest(self) -> bytes | LongLine | None:
        """What came after the last line break, when the stream has ended."""
        return self._finish(b"") if self._held or self._long else None

    def _add(self, piece: bytes) -> None:
        if self._long is not None:
            size, head = self._long
            self._long = (size + len(piece), head)
            self._tail = (self._tail + piece)[-KEPT_OF_LONG_LINE:]
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._limit:
            whole = b"".join(self._pieces)
            self._long = (len(whole), whole[:KEPT_OF_LONG_LINE])
            self._tail = whole[-KEPT_OF_LONG_LINE:]
            self._pieces, self._held = [], 0

    def _finish(self, last: bytes) -> bytes | LongLine:
        if self._long is None and not self._pieces and len(last) <= self._limit:
            return last
        self._add(last)
        if self._long is not None:
            (size, head), tail = self._long, self._tail
            self._long, self._tail = None, b""
            return LongLine(size, head, tail)
        line = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        return line
