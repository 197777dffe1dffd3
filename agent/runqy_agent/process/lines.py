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
        return task_named_in(self.head, self.tail) if BEGINS_OBJECT.match(self.head) else None


NAMES_TASK = b'"task_id"'
BEGINS_OBJECT = re.compile(rb"\s*\{")

_STRING = rb'"(?:[^"\\]|\\.)*"'
_FLAT = rb"%s\s*:\s*(?:%s|[^\s\"{}\[\],]+)\s*" % (_STRING, _STRING)  # a field without anything nested
_ID = rb'"task_id"\s*:\s*(%s)\s*' % _STRING
# Of the object itself, not of one within it: before the field, or behind it, there is nothing nested.
_AT_BEGINNING = re.compile(rb"\s*\{\s*(?:%s,\s*){0,8}%s," % (_FLAT, _ID))
_AT_END = re.compile(rb"%s(?:,\s*%s){0,8}\}\s*\Z" % (_ID, _FLAT))


def task_named_in(line: bytes, end: bytes = b"") -> str | None:
    """The task that a line names which cannot be read as JSON, if that can be seen from its beginning or its end."""
    found = _AT_BEGINNING.match(line[:KEPT_OF_LONG_LINE]) or _AT_END.search((end or line)[-KEPT_OF_LONG_LINE:])
    if found:
        try:
            return str(json.loads(found[1]))
        except ValueError:
            return None
    return None


# What may be a message begins so. Behind other output that was not ended by a line break, only an answer is looked for.
_BEGINS_MESSAGE = re.compile(rb"\s{0,%d}\{" % KEPT_OF_PRINTING)
_BEGINS_ANSWER = re.compile(rb'\{\s{0,8}"(?:task_id|result|error|retry)"\s{0,8}:')
_LONGEST_BEGINNING = 32
"""Bytes that the expression above matches at most."""

_UNDECIDED, _MESSAGE, _PRINTING, _TOO_LONG = range(4)
"""What a line is as far as it was read: short enough to be held whole whatever it is, or known to be one of these."""


class LineSplitter:
    """Cuts a stream of bytes into lines and never holds more than one line of the allowed length.

    Of a line that does not begin as a message it holds no more than ``KEPT_OF_PRINTING`` bytes, and what may be an
    answer behind them.
    """

    def __init__(self, limit: int, *, answers: bool = True) -> None:
        """Start with nothing.

        Args:
            limit: bytes of the longest line that is kept whole.
            answers: whether lines may hold messages; if not, all is printing.
        """
        self._limit = limit
        self._always_whole = min(limit, KEPT_OF_PRINTING)
        self._answers = answers
        self._start_anew()

    def _start_anew(self) -> None:
        self._state = _UNDECIDED
        self._size = 0  # of the line so far, with what is not held of it
        self._held = bytearray()  # one buffer: many small pieces would take many times their length
        self._message_at = 0  # where in it the message begins, if there may be one
        self._tail = b""

    def feed(self, data: bytes) -> Iterator[bytes | LongLine]:
        """Add what was read; yields the lines that are now complete, without their line breaks.

        A line longer than ``KEPT_OF_PRINTING`` that is no message is yielded as its beginning, together with what may
        be an answer at its end.
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
        if self._state == _PRINTING:
            self._look_for_answer(piece)
        elif self._state == _TOO_LONG:
            self._held += piece[: max(0, KEPT_OF_LONG_LINE - len(self._held))]
            self._tail = (self._tail + piece[-KEPT_OF_LONG_LINE:])[-KEPT_OF_LONG_LINE:]
        else:
            self._held += piece
            if self._state == _MESSAGE:
                self._bound()
            elif self._size > self._always_whole:
                self._decide()

    def _decide(self) -> None:
        if self._answers and _BEGINS_MESSAGE.match(self._held):
            self._state = _MESSAGE
            self._bound()
        else:
            self._state = _PRINTING
            line, self._held = bytes(self._held), bytearray()
            self._look_for_answer(line)

    def _look_for_answer(self, piece: bytes) -> None:
        """Keep of printing its beginning only, until something begins as an answer does."""
        self._held += piece[: KEPT_OF_PRINTING - len(self._held)]
        looked_at = self._tail[1 - _LONGEST_BEGINNING :] + piece
        found = _BEGINS_ANSWER.search(looked_at) if self._answers and b"{" in looked_at else None
        if found is None:
            self._tail = (self._tail + piece[-KEPT_OF_LONG_LINE:])[-KEPT_OF_LONG_LINE:]
            return
        self._state = _MESSAGE
        del self._held[self._size - len(looked_at) + found.start() :]
        self._message_at = len(self._held)
        self._held += looked_at[found.start() :]
        self._bound()

    def _bound(self) -> None:
        """Keep of a message that has become too long its two ends only."""
        if len(self._held) - self._message_at > self._limit:
            self._state = _TOO_LONG
            self._tail = bytes(self._held[-KEPT_OF_LONG_LINE:])
            del self._held[: self._message_at]
            del self._held[KEPT_OF_LONG_LINE:]

    def _finish(self, last: bytes) -> bytes | LongLine:
        if not self._size and len(last) <= self._always_whole:
            return last
        self._add(last)
        state, size, tail, held = self._state, self._size, self._tail, bytes(self._held)
        self._start_anew()
        if state == _TOO_LONG or (state == _PRINTING and size > self._limit):
            return LongLine(size, held[:KEPT_OF_LONG_LINE], tail)
        return held
