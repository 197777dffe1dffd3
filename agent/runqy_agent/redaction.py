"""Takes known secrets out of text, whole ones and what a cut has left of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORTEST_SECRET = 4
"""Shorter values are not looked for: they would blacken half the log."""
SHORTEST_LINE = 8
"""The same for single lines of a secret of several lines."""
_UNREADABLE = "\ufffd"
"""What the decoding makes of a character that was cut in two."""


class Redactor:
    """Replaces known secret values in text."""

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def add(self, secrets: Iterable[str]) -> None:
        """Learn secret values; the longest are replaced first, so that one inside another leaves nothing behind."""
        known = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in _forms(secret)}
        self._secrets = sorted(known.union(self._secrets), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """The text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def redact_cut(self, text: str) -> str:
        """The same for a text that went on: if it ends with the beginning of a secret, it ends before that."""
        text = text.rstrip(_UNREADABLE)
        end = len(text) - max((_begun(text, secret) for secret in self._secrets), default=0)
        while True:
            earlier = min((at for secret in self._secrets if (at := _across(text, secret, end)) >= 0), default=end)
            if earlier == end:
                return self.redact(text[:end])
            end = earlier


def _forms(secret: str) -> set[str]:
    """How a secret may look in a text: as it is, in Python's or JSON's quotes, in a URL, or line by line."""
    lines = [line for line in secret.splitlines() if len(line) >= SHORTEST_LINE]
    return {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace"), *lines}


def _begun(text: str, secret: str) -> int:
    """With how many characters of a secret, but not all of them, a text ends."""
    end = text[-len(secret) + 1 :]
    at = end.find(secret[0])
    while at >= 0:
        if secret.startswith(end[at:]):
            return len(end) - at
        at = end.find(secret[0], at + 1)
    return 0


def _across(text: str, secret: str, end: int) -> int:
    """Where a whole secret begins that a cut at ``end`` would cut in two; -1 if there is none."""
    first = max(0, end - len(secret) + 1)
    return text.find(secret, first, end + len(secret) - 1)
