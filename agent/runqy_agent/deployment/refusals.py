"""Which releases did not become ready, remembered over restarts, so that each is tried once and not for ever."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from runqy_agent.deployment.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_MOST = 20
_LONGEST_REASON = 8 * 1024


class Refusal(msgspec.Struct, frozen=True):
    """One release that did not become ready.

    Attributes:
        release: the name of its directory, which stands for commit, environment and code path.
        commit: the commit, in full, for people.
        fingerprint: of how it was started.
        reason: why it was refused, without secrets; the end of it if it is long.
        at: when, seconds since the epoch.
    """

    release: str
    commit: str
    fingerprint: str
    reason: str
    at: float


class Refusals:
    """The refusals of one queue, in one file that only this user can read: the reasons are the author's own words.

    A file that cannot be written or read costs a further try of what fails, and must not cost more: it is a warning.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / "refused.json"

    def add(self, release: str, commit: str, fingerprint: str, reason: str) -> None:
        """Remember a refusal instead of an earlier one of the same release."""
        new = Refusal(release, commit, fingerprint, reason[-_LONGEST_REASON:], time.time())
        self._write([*(old for old in self.all() if old.release != release), new][-_MOST:])

    def reason(self, release: str, fingerprint: str) -> str:
        """Why the release was refused when it was started in this way; empty if it was not."""
        for refusal in self.all():
            if (refusal.release, refusal.fingerprint) == (release, fingerprint):
                return refusal.reason or "it did not become ready"
        return ""

    def forget(self, release: str) -> None:
        """Forget a refusal, if there is one."""
        known = self.all()
        left = [refusal for refusal in known if refusal.release != release]
        if len(left) != len(known):
            self._write(left)

    def all(self) -> list[Refusal]:
        """All that are remembered, the oldest first."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[Refusal])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as damaged:
            log.warning("ignoring %s, which cannot be read: %s", self._file, damaged)
            return []

    def _write(self, refusals: list[Refusal]) -> None:
        try:
            write_atomically(self._file, msgspec.json.encode(refusals), mode=0o600)
        except OSError as failed:
            log.warning("%s cannot be written, so what failed will be tried again: %s", self._file, failed)
