"""A clock for tests."""

from __future__ import annotations

from runqy_agent.clock import Clock


class SetClock(Clock):
    """A clock that stands still where it is put."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.offset = 0.0
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

    def wall(self) -> float:
        """The same clock."""
        return self.now()

    def learn(self, sent: float, received: float, told: float) -> float:  # noqa: ARG002  # the signature of Clock
        """It knows better."""
        return 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.time_ns += int(seconds * 1_000_000_000)
