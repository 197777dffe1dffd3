"""The log: text for people, JSON for machines, and no secret in either."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.config import LogSettings

SHORTEST_SECRET = 4
"""Shorter values are not looked for: they would blacken half the log."""
SHORTEST_LINE = 8
"""The same for single lines of a secret of several lines."""
_CONTEXT = ("queue", "task", "source", "child")


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


def _forms(secret: str) -> set[str]:
    """How a secret may look in a text: as it is, in Python's or JSON's quotes, in a URL, or line by line."""
    lines = [line for line in secret.splitlines() if len(line) >= SHORTEST_LINE]
    return {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace"), *lines}


class TextFormatter(logging.Formatter):
    """One line: time, level, message, and the context in brackets."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact, tracebacks included."""
        context = " ".join(f"{name}={getattr(record, name)}" for name in _CONTEXT if hasattr(record, name))
        text = super().format(record)
        return self._redactor.redact(f"{text} [{context}]" if context else text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts`` (ms), ``level``, ``logger``, ``message`` and the context."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact, tracebacks included."""
        entry: dict[str, object] = {
            "ts": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.redact(record.getMessage()),
        }
        for name in _CONTEXT:
            value = getattr(record, name, None)
            if value is not None:
                entry[name] = self._redactor.redact(value) if isinstance(value, str) else value
        if record.exc_info:
            entry["exception"] = self._redactor.redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure_logging(settings: LogSettings, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to standard error.

    Args:
        settings: level and format; ``auto`` is text on a terminal and JSON elsewhere.
        redactor: what must not appear.
        stream: instead of standard error.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    as_json = settings.format in {"json", "journald"} or (settings.format == "auto" and not target.isatty())
    handler.setFormatter(JsonFormatter(redactor) if as_json else TextFormatter(redactor))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
