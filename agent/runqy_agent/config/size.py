"""Sizes in bytes: ``8GiB``, ``512MiB``, ``1.5GB``, or a plain number of bytes."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]{0,3})")
ALLOWED = "a size such as 8GiB, 512MiB or a number of bytes"


class Size(int):
    """A number of bytes, never negative."""

    __slots__ = ()


def parse_size(text: str) -> Size:
    """Read a size.

    Args:
        text: for example ``8GiB`` or ``8G`` (both 8 x 1024³), ``8GB`` (8 x 1000³), ``0``.

    Raises:
        ValueError: with what is wrong and what is allowed.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size; allowed is {ALLOWED}")
    return Size(float(match[1]) * _UNITS[match[2]] if "." in match[1] else int(match[1]) * _UNITS[match[2]])
