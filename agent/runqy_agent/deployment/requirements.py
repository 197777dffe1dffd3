"""Reading ``requirements.txt`` by pip's own rules: which files it pulls in, what it installs from the repository.

How it is installed is pip's and uv's business.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runqy_agent.deployment.requirement_lines import (
    DIRECT,
    VARIABLE,
    Line,
    decode,
    local_target,
    logical_lines,
    parse_line,
)
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REMOTE_FILE = re.compile(r"(https?|file):", re.IGNORECASE)
_FOR_UV = {"index": "--index-url", "extra_indexes": "--extra-index-url", "trusted_hosts": "--trusted-host"}
_FOR_UV |= {"find_links": "--find-links", "no_binary": "--no-binary", "only_binary": "--only-binary"}


class MissingPathError(EnvironmentBuildError):
    """Something refers to a path that is not in the checkout; perhaps it is in the repository.

    Attributes:
        path: relative to the checkout.
        installed: whether it is to be installed, and not only read.
    """

    def __init__(self, path: str, referrer: str, *, installed: bool = False) -> None:
        self.path = path
        self.installed = installed
        super().__init__(f"{referrer} refers to {path}, which the repository does not have")


@dataclass
class Requirements:
    """What a requirements file comes to.

    Attributes:
        files: path relative to the checkout → content, for the file and all it pulls in.
        lines: all of them as one file, as uv is to read it: what uv reads in another way than pip is not in there.
        constraints: the lines of the constraints.
        variables: the environment variables that are named.
        local: whether it installs anything from a local path.
        only_pip: whether it says something that only pip understands.
        needs_uv: whether a project is installed for which only uv knows where packages come from.
        rewritten: whether ``lines`` say something in a form that older versions of pip understand better.
        empty: whether there is nothing but blank lines and comments.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    variables: set[str] = field(default_factory=set)
    local: bool = False
    only_pip: bool = False
    needs_uv: bool = False
    rewritten: bool = False
    empty: bool = True


def read_requirements(
    path: Path, checkout: Path, directory: Path | None = None, variables: Mapping[str, str] | None = None
) -> Requirements:
    """Read a requirements file and everything it includes by ``-r`` and ``-c``.

    Local paths are those of the directory where it will be installed from: by default, the one it is in. ``${NAME}``
    stands for one of ``variables``; the others stay as they are.

    Raises:
        MissingPathError: a file or directory it refers to is not in the checkout.
        EnvironmentBuildError: it leads outside of the checkout, includes itself, or pip would not understand it.
    """
    reader = _Reader(directory or path.parent, checkout.resolve(), variables or {})
    reader.read(path, constraint=False, above=())
    return reader.found


def inside(path: Path, checkout: Path, referrer: str, *, installed: bool = False) -> Path:
    """``path`` with its links resolved, if that is inside the (resolved) checkout.

    Raises:
        MissingPathError: there is nothing there.
        EnvironmentBuildError: it leads outside.
    """
    real = path.resolve()
    if not real.is_relative_to(checkout):
        raise EnvironmentBuildError(f"{referrer} leads outside of the repository: {path.name}")
    if not real.exists():
        raise MissingPathError(str(real.relative_to(checkout)), referrer, installed=installed)
    return real


class _Reader:
    def __init__(self, directory: Path, checkout: Path, variables: Mapping[str, str]) -> None:
        self.found = Requirements()
        self._directory = directory
        self._variables = variables
        self._checkout = checkout

    def read(self, path: Path, *, constraint: bool, above: tuple[Path, ...]) -> None:
        real = path.resolve()
        name = str(real.relative_to(self._checkout)) if real.is_relative_to(self._checkout) else path.name
        if not inside(path, self._checkout, name).is_file():
            raise EnvironmentBuildError(f"{name} is to be read as a requirements file, and is no file")
        normalized = _normal(path)
        if normalized in above:
            raise EnvironmentBuildError(f"{name} includes itself")
        content = self.found.files[name] = real.read_bytes()
        try:
            text = decode(content)
        except (ValueError, LookupError) as undecodable:
            raise EnvironmentBuildError(f"{name} cannot be decoded: {undecodable}") from undecodable
        for number, logical in logical_lines(text):
            self.found.empty = False
            self.found.variables.update(VARIABLE.findall(logical))
            try:
                line = parse_line(number, self._expanded(logical))
            except ValueError as wrong:
                raise EnvironmentBuildError(f"{name}, line {number}: {logical!r}: {wrong}") from wrong
            self._take(line, path, name, above=(*above, normalized))
            self._keep(parse_line(number, logical), path, constraint=constraint)

    def _expanded(self, text: str) -> str:
        return VARIABLE.sub(lambda found: self._variables.get(found[1]) or found[0], text)

    def _take(self, line: Line, path: Path, name: str, *, above: tuple[Path, ...]) -> None:
        """Follow what a line refers to."""
        options, referrer = line.options, f"{name}, line {line.number},"
        self.found.only_pip |= bool(options.only_pip or options.as_pip)
        if line.installs:
            self._note(line.installs, referrer, editable=not line.requirement)
        elif line.includes and not _REMOTE_FILE.match(line.includes):
            target = path.parent / line.includes
            inside(target, self._checkout, referrer)
            self.read(target, constraint=not options.requirements, above=above)

    def _keep(self, line: Line, path: Path, *, constraint: bool) -> None:
        """Write a line, which may name variables, as uv reads it."""
        options = line.options
        if line.installs:
            hashes = "".join(f" --hash={each}" for each in options.hashes or ())
            kept = self.found.constraints if constraint else self.found.lines
            kept.append(f"{self._absolute(line.requirement)}{hashes}" if line.requirement else f"-e {line.installs}")
        elif line.includes:
            if _REMOTE_FILE.match(line.includes):
                self.found.lines.append(f"{'-r' if options.requirements else '-c'} {line.includes}")
        else:
            if options.find_links:
                options.find_links = [self._find_links(options.find_links[0], path)]
            self.found.lines += ["--no-index"] if options.no_index else []
            for name, option in _FOR_UV.items():
                given = getattr(options, name) or ()
                self.found.lines += [f"{option} {each}" for each in ([given] if isinstance(given, str) else given)]

    def _absolute(self, requirement: str) -> str:
        """``name @ file:../path`` as ``name @ file:///path``."""
        direct = DIRECT.match(requirement)
        if not direct or not (relative := re.match(r"file:(?!/)(.+)", direct["url"])):
            return requirement
        self.found.rewritten = True
        url = _normal(self._directory / relative[1]).as_uri()
        return requirement[: direct.start("url")] + url + requirement[direct.end("url") :]

    def _find_links(self, target: str, path: Path) -> str:
        """Where packages are looked for: for a directory, beside the file, else where it is installed from."""
        if "://" in target and not target.startswith("file:"):
            return target
        self.found.local = True
        beside, here = path.parent / target, self._directory / target
        place = next((place for place in (beside, here) if place.exists()), None)
        if place is None and not target.startswith(("/", "file:")):
            inside(beside, self._checkout, path.name, installed=True)
        return str(_normal(place)) if place else target

    def _note(self, text: str, referrer: str, *, editable: bool) -> None:
        target = local_target(text, self._directory, editable=editable)
        if target is None:
            return
        self.found.local = True
        place = self._directory / (unquote(urlsplit(target).path) if target.lower().startswith("file:") else target)
        if _normal(place).is_relative_to(self._checkout):
            project = inside(place, self._checkout, referrer, installed=True) / "pyproject.toml"
            self.found.needs_uv |= project.is_file() and b"tool.uv.sources" in project.read_bytes()
        elif not target.startswith(("/", "file:/")):
            raise EnvironmentBuildError(f"{referrer} leads outside of the repository: {target}")


def _normal(path: Path) -> Path:
    return type(path)(os.path.normpath(path.absolute()))
