"""The one place that reads the clocks, so that tests can set them."""

from __future__ import annotations

import time


class Clock:
    """The system's clocks. Tests replace it by one that stands where they put it."""

    def now(self) -> float:
        """Wall clock, unix seconds. What goes into Redis."""
        return time.time()

    def now_ns(self) -> int:
        """Wall clock, unix nanoseconds."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never run backwards. For everything that stays on this machine."""
        return time.monotonic()


class SetClock(Clock):
    """A clock that stands still where it is put."""

    def __init__(self, now: float) -> None:
        self.time_ns = int(now * 1_000_000_000)

    def now(self) -> float:
        """Unix seconds, as set."""
        return self.time_ns / 1_000_000_000

    def now_ns(self) -> int:
        """Unix nanoseconds, as set."""
        return self.time_ns

    def monotonic(self) -> float:
        """The same clock; it runs backwards only if a test puts it back."""
        return self.now()

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.time_ns += int(seconds * 1_000_000_000)
