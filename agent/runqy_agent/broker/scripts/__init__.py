"""The Lua scripts. Each file is headed by its KEYS, ARGV and return value.

A line ``--@include name.lua`` stands for the text of another file of this directory: the steps of ``exchange.lua``
are files of their own, but run as one script. What differs in another layout of the keys stands in a directory of that
layout's name, under the same file name, and is read instead.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

_INCLUDE = re.compile(r"^ *--@include (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script as Redis knows it: its text and the SHA-1 it is called by."""

    name: str
    text: str
    sha: str


def _read(name: str, layout: str) -> str:
    directory = resources.files(__package__)
    own = directory.joinpath(layout).joinpath(name)
    text = (own if own.is_file() else directory.joinpath(name)).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: _read(match[1], layout), text)


@cache
def load(name: str, layout: str = "asynq") -> Script:
    """The script in ``<name>.lua`` for a layout of the keys, with its includes in place."""
    text = _read(f"{name}.lua", layout)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


RUNNABLE = (
    "adopt",
    "beat",
    "enlist",
    "exchange",
    "expire_archived",
    "expire_completed",
    "expired",
    "extend",
    "forward",
    "printed",
    "probe",
    "reclaim",
    "record",
    "time",
    "unwatch",
    "watch",
)
"""The scripts that are run by themselves; the other files are steps and helpers that they include."""

NOT_FLAT = ("beat", "enlist")
"""What asynq's own readers look at is not written in the flat layout..."""
ONLY_FLAT = ("enroll",)
"""...and this only there."""


def all_scripts(layout: str = "asynq") -> list[Script]:
    """Every script that may be run in this layout."""
    names = RUNNABLE if layout == "asynq" else (*(name for name in RUNNABLE if name not in NOT_FLAT), *ONLY_FLAT)
    return [load(name, layout) for name in names]
