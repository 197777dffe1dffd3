"""When a crashed process is started again: backoff with jitter, and a circuit breaker."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runqy_agent.clock import Clock
    from runqy_agent.config import RecoverySettings

JITTER = 0.2
"""A delay is up to this share longer or shorter, so that a fleet does not restart in step."""


class Recovery:
    """Counts crashes and decides on the next start.

    Attributes:
        consecutive_fails: crashes since the process was last up for a whole cooldown period.
        total_restarts: restarts since the worker started.
    """

    def __init__(self, settings: RecoverySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._ready_since: float | None = None
        self.consecutive_fails = 0
        self.total_restarts = 0

    def became_ready(self) -> None:
        """The process is up."""
        self._ready_since = self._clock.monotonic()

    def forgive(self) -> None:
        """Forget the crashes: other code runs now."""
        self.consecutive_fails = 0

    def crashed(self) -> float | None:
        """The process has ended, or failed to become ready.

        Returns:
            Seconds until it should be started again, or None: it should stay down.
        """
        settings = self._settings
        up_since, self._ready_since = self._ready_since, None
        if up_since is not None and self._clock.monotonic() - up_since >= settings.cooldown_period:
            self.consecutive_fails = 0
        self.consecutive_fails += 1
        if not settings.enabled or self.consecutive_fails > settings.max_restarts:
            return None
        self.total_restarts += 1
        try:
            delay = settings.initial_delay * settings.backoff_factor ** (self.consecutive_fails - 1)
        except OverflowError:
            delay = settings.max_delay
        return min(delay, settings.max_delay) * random.uniform(1 - JITTER, 1 + JITTER)  # jitter
