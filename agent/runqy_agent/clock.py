"""The one place that reads the clocks, so that tests can set them.

There are three, and each thing is measured by one of them:

- what is measured on this host, by the *monotonic* clock;
- what Redis and everybody who reads it must agree on (leases, due times, expiries), by *Redis' clock*: the monotonic
  one and an offset, learned from what ``TIME`` replies;
- what is shown to people on this host, by its *wall clock*. That may be wrong, or set while tasks run, and so decides
  nothing.
"""

from __future__ import annotations

import math
import time

_SOURCE = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux' boot time goes on while the host is suspended, and so do the leases in Redis; the monotonic clock stops. With
it a host that wakes up would believe that it still holds tasks which others have long taken over."""

DRIFT = 0.001
"""Seconds by which two clocks may move apart within a second: twice what NTP corrects a running clock by."""
APART = 5.0
"""Seconds. A difference between two clocks that is larger is told."""


def monotonic() -> float:
    """Seconds that never run backwards, and go on while the host is suspended."""
    return time.clock_gettime(_SOURCE)


class Clock:
    """The clocks of one worker. Tests replace it by one that stands where they put it.

    Attributes:
        offset: seconds from the monotonic clock to Redis'. Until it is learned, Redis' clock is taken for the host's.
        set_at: monotonic seconds, when Redis' clock was last found to have been set by more than ``APART``; minus
            infinity if it never was.
    """

    def __init__(self) -> None:
        self.offset = time.time() - monotonic()
        self.set_at = -math.inf
        self._range: tuple[float, float] | None = None
        self._learned_at = 0.0

    def monotonic(self) -> float:
        """See the function of this name. For all that stays on this host."""
        return monotonic()

    def now(self) -> float:
        """Redis' clock, unix seconds. For all that goes into Redis."""
        return self.monotonic() + self.offset

    def now_ns(self) -> int:
        """Redis' clock, unix nanoseconds."""
        return int(self.now() * 1e9)

    def wall(self) -> float:
        """The host's wall clock, unix seconds. For people only."""
        return time.time()

    def ahead(self) -> float:
        """How many seconds the host's wall clock is ahead of Redis'; less than 0 if it is behind."""
        return self.wall() - self.now()

    def shown(self, moment: float) -> float:
        """A moment of the monotonic clock as the host's wall clock shows it now, unix seconds."""
        return moment + self.wall() - self.monotonic()

    def learn(self, sent: float, received: float, told: float) -> float:
        """Learn what Redis' clock says.

        It was read somewhere between ``sent`` and ``received``, so a reply that took long says little: each narrows the
        range in which the offset must be, which widens again by what the two clocks may drift apart.

        Args:
            sent: monotonic seconds, before the question.
            received: the same, after the reply.
            told: the reply, unix seconds.

        Returns:
            By how many seconds Redis' clock was set since the last time, if it was, or that of another server which
            replies now differs from it; else 0.
        """
        low, high = told - received, told - sent
        before = self.offset
        if self._range is None:
            self.offset = (low + high) / 2
        else:
            drift = (received - self._learned_at) * DRIFT
            possible = self._range[0] - drift, self._range[1] + drift
            if possible[0] <= high and low <= possible[1]:
                low, high = max(low, possible[0]), min(high, possible[1])
                before = self.offset = min(max(self.offset, low), high)
            else:
                self.offset = (low + high) / 2
                if abs(self.offset - before) > APART:
                    self.set_at = received
        first, self._range, self._learned_at = self._range is None, (low, high), received
        return 0.0 if first else self.offset - before
