"""How much of what processes print reaches the log: all of what people can read, a part of a flood."""

from __future__ import annotations

import time

BURST_LINES = 3000
BURST_BYTES = 4 * 1024 * 1024
LINES_PER_SECOND = 200
BYTES_PER_SECOND = 128 * 1024


class PrintBudget:
    """What the processes of one queue may print, all together: a burst, and from then on so much a second."""

    def __init__(self) -> None:
        self._lines = float(BURST_LINES)
        self._bytes = float(BURST_BYTES)
        self._filled_at = time.monotonic()

    def allows(self, size: int) -> bool:
        """Take a line of so many bytes out of the budget. False if it is left out."""
        now = time.monotonic()
        passed, self._filled_at = now - self._filled_at, now
        self._lines = min(BURST_LINES, self._lines + passed * LINES_PER_SECOND)
        self._bytes = min(BURST_BYTES, self._bytes + passed * BYTES_PER_SECOND)
        if self._lines < 1 or self._bytes < size:
            return False
        self._lines -= 1
        self._bytes -= size
        return True
