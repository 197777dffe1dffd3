"""The files of a commit on the disk: which are wanted, and what they turn out to be."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPECIAL = re.compile(r"([\\*?\[\]! #])")
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LARGEST_POINTER = 1024


@dataclass
class Checkout:
    """A working tree being made.

    Attributes:
        commit: the commit, in full.
        directory: where the files go. No ``.git`` is among them.
        index: a temporary Git index, outside ``directory``.
        code_path: the directory wanted; empty for all.
        extra: further paths wanted, since something refers to them.
        whole: whether everything is wanted.
    """

    commit: str
    directory: Path
    index: Path
    code_path: str
    extra: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        self.whole = self.whole or not self.code_path


def sparse_patterns(code_path: str, extra: Sequence[str]) -> str:
    """The patterns Git's cone mode would use: ``code_path`` whole, and the plain files of each directory above it.

    Cone mode itself is younger than the oldest Git in use.
    """
    lines = ["/*", "!/*/"]
    parts = [_SPECIAL.sub(r"\\\1", part) for part in code_path.split("/")]
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        lines += [f"/{above}/", f"!/{above}/*/"]
    lines.append(f"/{'/'.join(parts)}/")
    lines += ["/" + _SPECIAL.sub(r"\\\1", path) for path in extra]
    return "\n".join(lines) + "\n"


def lfs_options() -> tuple[str, ...]:
    """Options that let git-lfs, if it is installed, put the files in place of its pointers."""
    if shutil.which("git-lfs") is None:
        return ()
    filters = {"process": "git-lfs filter-process", "smudge": "git-lfs smudge -- %f", "clean": "git-lfs clean -- %f"}
    return tuple(word for name, command in filters.items() for word in ("-c", f"filter.lfs.{name}={command}"))


def lfs_pointers(directory: Path) -> list[str]:
    """The files that are pointers of Git LFS, if the repository uses that at all."""
    found, used = [], False
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place, name)
            if path.is_symlink() or (path.stat().st_size > _LARGEST_POINTER and name != ".gitattributes"):
                continue
            content = path.read_bytes()
            used = used or (name == ".gitattributes" and b"filter=lfs" in content)
            if content.startswith(_POINTER):
                found.append(str(path.relative_to(directory)))
    return sorted(found) if used else []


def links(place: Path) -> Iterator[Path]:
    """The symbolic links at and below a path."""
    if place.is_symlink():
        yield place
    for directory, directories, files in os.walk(place):
        paths = (os.path.join(directory, name) for name in (*directories, *files))  # noqa: PTH118 - many, as strings
        yield from (Path(path) for path in paths if os.path.islink(path))  # noqa: PTH114 - the same
