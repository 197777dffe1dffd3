"""Reading ``requirements.txt`` as far as it matters here: which files it pulls in, whether it installs local code."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMMENT = re.compile(r"(^|\s)#.*$")
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<path>\S.*)")
_PATH_OPTION = re.compile(r"(?P<option>-e|--editable|-f|--find-links)(?:\s*=\s*|\s+)(?P<target>\S.*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"(?:[^\s@]+\s*@\s*)?file:|\.{0,2}/|\.{1,2}(?:$|[\[;\s])")
_ARCHIVE = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DEEPEST = 20


class MissingPathError(EnvironmentBuildError):
    """Something refers to a path that is not in the checkout; perhaps it is in the repository.

    Attributes:
        path: relative to the checkout.
    """

    def __init__(self, path: str, referrer: str) -> None:
        self.path = path
        super().__init__(f"{referrer} refers to {path}, which the repository does not have")


@dataclass
class Requirements:
    """What a requirements file comes to.

    Attributes:
        files: path relative to the checkout → content, for the file and all it pulls in.
        local: whether it installs anything from a local path, so that it depends on the whole commit.
        empty: whether it asks for nothing at all.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    local: bool = False
    empty: bool = True


def read_requirements(path: Path, checkout: Path) -> Requirements:
    """Read a requirements file and everything it includes by ``-r`` and ``-c``.

    Raises:
        MissingPathError: a file or directory it refers to is not in the checkout.
        EnvironmentBuildError: it leads outside of the checkout, or includes itself without end.
    """
    found = Requirements()
    _read(path, path.parent, checkout.resolve(), found, 0)
    return found


def inside(path: Path, checkout: Path, referrer: str) -> Path:
    """``path`` with its links resolved, if that is inside the (resolved) checkout.

    Raises:
        MissingPathError: there is nothing there.
        EnvironmentBuildError: it leads outside.
    """
    real = path.resolve()
    if not real.is_relative_to(checkout):
        raise EnvironmentBuildError(f"{referrer} leads outside of the repository: {path.name}")
    if not real.exists():
        raise MissingPathError(str(real.relative_to(checkout)), referrer)
    return real


def _read(path: Path, base: Path, checkout: Path, found: Requirements, depth: int) -> None:
    if depth > _DEEPEST:
        raise EnvironmentBuildError(f"{path.name} is included more than {_DEEPEST} levels deep")
    name = str(path.resolve().relative_to(checkout)) if path.resolve().is_relative_to(checkout) else path.name
    content = inside(path, checkout, name).read_bytes()
    found.files[name] = content
    for line in _logical_lines(content):
        include, option = _INCLUDE.fullmatch(line), _PATH_OPTION.fullmatch(line)
        if include:
            target = _unquoted(include["path"])
            if not _URL.match(target) and "${" not in target:
                _include(path.parent / target, checkout, found, name, depth)
            found.empty = found.empty and line.startswith(("-c", "--c"))
            continue
        found.empty = found.empty and line.startswith("-") and not line.startswith(("-e", "--e"))
        target = _unquoted(option["target"]) if option else line
        if option or _is_local(target, base):
            _note_local(target, base, checkout, found, name)


def _include(target: Path, checkout: Path, found: Requirements, referrer: str, depth: int) -> None:
    real = inside(target, checkout, referrer)
    if not real.is_file():
        raise EnvironmentBuildError(f"{referrer} includes {target.name}, which is no file")
    if str(real.relative_to(checkout)) not in found.files:
        _read(target, target.parent, checkout, found, depth + 1)


def _note_local(target: str, base: Path, checkout: Path, found: Requirements, referrer: str) -> None:
    if _URL.match(target) and not target.startswith("file:"):
        return  # from a version control system, or links on a web page
    found.local = True
    bare = re.split(r"[\[;\s]", target, maxsplit=1)[0]
    if bare.startswith(("/", "file:")) or "@" in target:
        return
    path = (base / bare).resolve()
    if path.is_relative_to(checkout) and not path.exists():
        raise MissingPathError(str(path.relative_to(checkout)), referrer)


def _is_local(target: str, base: Path) -> bool:
    if target.startswith("-") or _URL.match(target):
        return target.startswith("file:")
    if _LOCAL.match(target) or target.partition(";")[0].strip().endswith(_ARCHIVE):
        return "://" not in target or "file:" in target
    return "/" in target and "@" not in target and (base / re.split(r"[\[;\s]", target, maxsplit=1)[0]).exists()


def _logical_lines(content: bytes) -> Iterator[str]:
    text = content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\\\n", " ")
    for line in text.split("\n"):
        if stripped := _COMMENT.sub("", line).strip():
            yield stripped


def _unquoted(text: str) -> str:
    try:
        parts = shlex.split(text)
    except ValueError:
        return text
    return parts[0] if len(parts) == 1 else text
