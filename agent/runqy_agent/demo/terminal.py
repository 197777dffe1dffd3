"""What the demo shows: a line that lives, and a table."""

from __future__ import annotations

import io
import shutil
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH_OF_A_FILE = 120
_EVERY_SECONDS = 1.0
_CLEAR = "\r\x1b[K"
_GAP = "  "


class Terminal:
    """Standard output, for people: on a terminal the live line is rewritten, elsewhere it is repeated now and then."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # whatever the locale, a character is no reason to fail
        self._rewrites = sys.stdout.isatty()
        self._alive = False
        self._shown = ""
        self._shown_at = float("-inf")
        self.width = shutil.get_terminal_size((_WIDTH_OF_A_FILE, 24)).columns

    def say(self, text: str = "") -> None:
        """Print lines that stay."""
        self.settle()
        print(text, flush=True)

    def show(self, text: str) -> None:
        """Renew the live line."""
        if self._rewrites:
            print(_CLEAR + shorten(text, self.width - 1), end="", flush=True)
            self._alive = True
        elif text != self._shown and time.monotonic() - self._shown_at >= _EVERY_SECONDS:
            print(text, flush=True)
            self._shown, self._shown_at = text, time.monotonic()

    def settle(self) -> None:
        """Take the live line away."""
        if self._alive:
            print(_CLEAR, end="", flush=True)
            self._alive = False

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, elastic: int) -> None:
        """Print a table.

        Args:
            heads: the columns' names.
            rows: the cells.
            elastic: the column that gives way when the terminal is too narrow.
        """
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        others = sum(widths) - widths[elastic] + len(_GAP) * (len(widths) - 1)
        widths[elastic] = min(widths[elastic], max(len(heads[elastic]), self.width - others))
        for row in (heads, ["─" * width for width in widths], *rows):
            cells = [shorten(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.say(_GAP.join(cells).rstrip())


def shorten(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"
