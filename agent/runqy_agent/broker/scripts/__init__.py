"""The Lua scripts. Each file is headed by its KEYS, ARGV and return value.

A line ``--@include name.lua`` stands for the text of another file of this directory: the steps of ``exchange.lua``
are files of their own, but run as one script.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

_INCLUDE = re.compile(r"^--@include (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script as Redis knows it: its text and the SHA-1 it is called by."""

    name: str
    text: str
    sha: str


def _read(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: _read(match[1]), text)


@cache
def load(name: str) -> Script:
    """The script in ``<name>.lua``, with its includes in place."""
    text = _read(f"{name}.lua")
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
    "probe",
    "reclaim",
    "record",
    "unwatch",
    "watch",
)
"""The scripts that are run by themselves; the other files are steps and helpers that they include."""


def all_scripts() -> list[Script]:
    """Every script that may be run."""
    return [load(name) for name in RUNNABLE]
