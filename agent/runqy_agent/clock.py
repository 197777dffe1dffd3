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
