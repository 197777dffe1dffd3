"""What the worker does without, because its Redis does not have it: announced once, and shown in the status."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Fallbacks:
    """The fallbacks in use.

    Attributes:
        shares_watch: whether the workers of a fleet can share the watch over their queues.
        cancels: whether tasks can be cancelled.
    """

    def __init__(self) -> None:
        self.shares_watch = True
        self.cancels = True
        self._texts: dict[str, str] = {}

    def use(self, missing: str, consequence: str) -> None:
        """Announce one, unless it has been announced.

        Args:
            missing: what Redis does not have or permit, with its reason in parentheses.
            consequence: what follows, and what to do about it.
        """
        text = f"Redis offers no {missing}: {consequence}"
        if consequence not in self._texts:
            log.warning("%s", text)
        self._texts[consequence] = text

    @property
    def texts(self) -> list[str]:
        """One sentence for each."""
        return list(self._texts.values())
