"""The newest lines that the supervised processes have printed, kept in memory."""

from __future__ import annotations

import json
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runqy_agent.clock import Clock
    from runqy_agent.process.command import Printed

KEPT = 500
LONGEST_TEXT = 4096
"""Characters kept of a line."""
MOST_TO_WRITE = 256 * 1024
"""Characters that are written to Redis at once, and so within a second: of more, the newest lines."""


class Line(TypedDict):
    """A line; ``ts`` are milliseconds, ``seq`` numbers the lines of one worker from 1."""

    ts: int
    src: str
    text: str
    seq: int
    queue: str
    pid: int


class Output:
    """A ring of lines. Whatever is printed takes a place in memory that it does not outgrow.

    Attributes:
        on_line: called after each.
    """

    def __init__(self, clock: Clock) -> None:
        self.on_line: Callable[[], None] = lambda: None
        self._clock = clock
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._seq = 0

    def add(self, printed: Printed) -> None:
        """Keep a line."""
        self._seq += 1
        self._lines.append(
            Line(
                ts=int(self._clock.now() * 1000),
                src=printed.source,
                text=printed.text[:LONGEST_TEXT],
                seq=self._seq,
                queue=printed.queue,
                pid=printed.pid,
            )
        )
        self.on_line()

    def newest(self, count: int = KEPT, after: int = 0, queue: str = "") -> list[Line]:
        """Lines in the order they were printed.

        Args:
            count: how many at most: the newest.
            after: only with a larger ``seq``.
            queue: only of this parent queue, "" for all.
        """
        found: Iterable[Line] = reversed(self._lines)
        found = (line for line in found if line["seq"] > after and queue in {"", line["queue"]})
        return list(islice(found, count))[::-1]

    def to_write(self, after: int) -> list[tuple[int, str]]:
        """``seq`` and JSON of the lines that Redis is to get next, within ``MOST_TO_WRITE``."""
        chosen: list[tuple[int, str]] = []
        room = MOST_TO_WRITE
        for line in reversed(self._lines):
            room -= len(line["text"])
            if line["seq"] <= after or room < 0:
                break
            chosen.append((line["seq"], json.dumps(line)))
        return chosen[::-1]
