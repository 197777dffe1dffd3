"""The log: text for people, JSON for machines, and no secret in either."""

from __future__ import annotations

import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO

from runqy_agent.escaping import escape, escape_lines, to_json
from runqy_agent.reporting.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.config import LogSettings
    from runqy_agent.redaction import Redactor

_CONTEXT = ("queue", "task", "source", "child")
_SYSLOG_LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_SYSLOG_DEBUG = 7
_INDENT = "    "
"""Before every line of a message but the first: what begins with it is never an entry of its own."""


class TextFormatter(logging.Formatter):
    """One line: time, level, message, and the context in brackets; more lines of a message are indented."""

    def __init__(self, redactor: Redactor, form: str = "%(asctime)s %(levelname)-7s %(message)s") -> None:
        super().__init__(form, "%Y-%m-%d %H:%M:%S")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Format, redact and escape, tracebacks included."""
        redact = self._redactor.redact
        text = escape_lines(redact(super().format(record)), _INDENT)
        known = ((name, str(getattr(record, name))) for name in _CONTEXT if hasattr(record, name))
        context = " ".join(f"{name}={escape(redact(value))}" for name, value in known)
        return f"{text} [{context}]" if context else text


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
        return to_json(entry)


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


class QueuedHandler(logging.Handler):
    """Formats where a message is logged, and leaves the writing to a ``LogWriter``."""

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = LogWriter(fd, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it."""
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - of whoever logs; it must not suffer from that
            text = self._own_line("cannot format the message of %s:%d: %r", record.pathname, record.lineno, error)
        self._writer.put(text, urgent=record.levelno >= logging.WARNING)

    def flush(self) -> None:
        """Wait, within bounds, until what is queued is written."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and stop writing."""
        self._writer.close()
        super().close()

    def _notice(self, lines: int, reason: str) -> str:
        return self._own_line("%d lines were dropped because %s", lines, reason)

    def _own_line(self, message: str, *args: object) -> str:
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, args, None))


def _handler(stream: TextIO, formatter: logging.Formatter) -> logging.Handler:
    try:
        fd = stream.fileno()
        own_file = stream is not sys.stderr and stat.S_ISREG(os.fstat(fd).st_mode)
    except (OSError, ValueError):  # in memory
        own_file = True
    if not own_file:
        return QueuedHandler(fd, formatter)
    handler = logging.StreamHandler(stream)  # nobody keeps it waiting
    handler.setFormatter(formatter)
    return handler


def configure_logging(settings: LogSettings, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to standard error, without ever waiting for whoever reads it.

    Args:
        settings: level and format; ``auto`` is text on a terminal, ``journald`` where the stream leads to the journal,
            and JSON elsewhere.
        redactor: what must not appear.
        stream: instead of standard error.
    """
    target = stream or sys.stderr
    formatter = _FORMATTERS[_form(target) if settings.format == "auto" else settings.format](redactor)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, QueuedHandler):
            old.close()
    root.addHandler(_handler(target, formatter))
    root.setLevel(settings.level.upper())
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
