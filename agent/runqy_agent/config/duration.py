"""Durations as Go writes them: ``30s``, ``1m30s``, ``500ms``, ``1.5h``, ``0``.

The grammar is that of Go's ``time.ParseDuration``: a sequence of decimal numbers, each with a unit.
"""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,  # micro sign
    "\u03bcs": 1e-6,  # Greek mu
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LONGEST = 2**63 / 1e9  # seconds; Go counts nanoseconds in 64 bits, which is about 292 years
ALLOWED = "a duration such as 30s, 1m30s, 500ms, 2h or 0"


class Duration(float):
    """A length of time in seconds, never negative."""

    __slots__ = ()


def parse_duration(text: str) -> Duration:
    """Read a Go duration.

    Args:
        text: for example ``1m30s``; ``0`` needs no unit.

    Returns:
        The duration in seconds.

    Raises:
        ValueError: with what is wrong and what is allowed.
    """
    stripped = text.strip()
    if stripped.startswith("-"):
        raise ValueError(f"{text!r} is negative; allowed is {ALLOWED}")
    stripped = stripped.removeprefix("+")
    if stripped in {"0", "0.0"}:
        return Duration(0)
    position, total = 0, 0.0
    while position < len(stripped):
        part = _PART.match(stripped, position)
        if part is None:
            hint = f'; did you mean "{stripped}s"?' if re.fullmatch(r"[0-9]+(\.[0-9]+)?", stripped) else ""
            raise ValueError(f"{text!r} is not a duration; allowed is {ALLOWED}{hint}")
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if position == 0:
        raise ValueError(f"the duration is empty; allowed is {ALLOWED}")
    if total >= _LONGEST:
        raise ValueError(f"{text!r} is longer than 292 years; allowed is {ALLOWED}")
    return Duration(total)


def format_duration(seconds: float) -> str:
    """Write a duration the way people read it: ``90.0`` becomes ``1m30s``.

    From one second on the result is exact to a millisecond, below to six digits. ``parse_duration`` reads it back.
    """
    if seconds < 1:
        for unit in ("ms", "us", "ns"):
            if seconds >= _UNITS[unit]:
                return f"{seconds / _UNITS[unit]:g}{unit}"
        return "0"
    hours, rest = divmod(round(seconds, 3), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{int(hours)}h"] if hours else []
    parts += [f"{int(minutes)}m"] if minutes else []
    parts += [f"{round(rest, 3):g}s"] if round(rest, 3) else []
    return "".join(parts)
