"""Trouble that lasts: it is warned of, again and again, and stands in the status until it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from runqy_agent.broker.connection import describe

log = logging.getLogger(__name__)

LASTING_SECONDS = 60.0
"""What passes within this time is nobody's business but the loop's."""
REMIND_SECONDS = 600.0


@dataclass
class _Trouble:
    text: str
    since: float
    warn_at: float


class Troubles:
    """What keeps one loop from its work, as a whole or with single queues."""

    def __init__(self, name: str) -> None:
        """Args: name: of the loop."""
        self._name = name
        self._found: dict[str, _Trouble] = {}

    def failed(self, error: BaseException, queue: str = "") -> bool:
        """Something went wrong, with one queue or altogether. Returns whether it had worked before."""
        now = time.monotonic()
        is_new = queue not in self._found
        trouble = self._found.setdefault(queue, _Trouble("", now, now + LASTING_SECONDS))
        trouble.text = describe(error)
        if now >= trouble.warn_at:
            trouble.warn_at = now + REMIND_SECONDS
            what, age = self._what(queue), now - trouble.since
            log.warning("%s: nothing has worked for %.0f s (%s), still trying", what, age, trouble.text)
        return is_new

    def worked(self, queue: str = "") -> bool:
        """It works. Returns whether something had been wrong."""
        trouble = self._found.pop(queue, None) if self._found else None
        return trouble is not None

    def text(self, queue: str = "") -> str:
        """What is wrong; "" for nothing."""
        trouble = self._found.get(queue)
        return trouble.text if trouble else ""

    @property
    def lasting(self) -> dict[str, str]:
        """What has been wrong for more than a moment, by what does not work."""
        now = time.monotonic()
        return {
            self._what(queue): trouble.text
            for queue, trouble in self._found.items()
            if now - trouble.since >= LASTING_SECONDS
        }

    def _what(self, queue: str) -> str:
        return f"{self._name} of queue {queue}" if queue else self._name
