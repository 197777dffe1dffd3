"""The log: text for people, JSON for machines, and no secret in either."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.config import LogSettings
    from runqy_agent.redaction import Redactor

_CONTEXT = ("queue", "task", "source", "child")
_SYSLOG_LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_SYSLOG_DEBUG = 7


class TextFormatter(logging.Formatter):
    """One line: time, level, message, and the context in brackets."""

    def __init__(self, redactor: Redactor, form: str = "%(asctime)s %(levelname)-7s %(message)s") -> None:
        super().__init__(form, "%Y-%m-%d %H:%M:%S")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact, tracebacks included."""
        context = " ".join(f"{name}={getattr(record, name)}" for name in _CONTEXT if hasattr(record, name))
        text = super().format(record)
        return self._redactor.redact(f"{text} [{context}]" if context else text)


class JournalFormatter(TextFormatter):
    """Text with the level before each line as ``<N>``, see ``sd-daemon(3)``. The journal knows the time itself."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__(redactor, "%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact; each line of a message is an entry of its own there, and needs its own level."""
        level = next((number for least, number in _SYSLOG_LEVELS if record.levelno >= least), _SYSLOG_DEBUG)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).split("\n"))


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


_FORMATTERS: dict[str, Callable[[Redactor], logging.Formatter]] = {
    "text": TextFormatter,
    "journald": JournalFormatter,
    "json": JsonFormatter,
}


def _form(stream: TextIO) -> str:
    if stream.isatty():
        return "text"
    return "journald" if _leads_to_the_journal(stream) else "json"


def _leads_to_the_journal(stream: TextIO) -> bool:
    """Whether it is what systemd has connected. The variable alone says little: it is inherited."""
    try:
        file = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a real file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


def configure_logging(settings: LogSettings, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to standard error.

    Args:
        settings: level and format; ``auto`` is text on a terminal, ``journald`` where the stream leads to the journal,
            and JSON elsewhere.
        redactor: what must not appear.
        stream: instead of standard error.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_FORMATTERS[_form(target) if settings.format == "auto" else settings.format](redactor))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
