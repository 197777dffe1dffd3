"""What the task author's code needs: which file says so, and what an environment made from it depends on."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runqy_agent.deployment.locks import (
    digest,
    poetry_inputs,
    poetry_table,
    read_poetry_lock,
    read_poetry_tables,
    read_uv_lock,
)
from runqy_agent.deployment.requirements import inside, read_requirements
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

# tomli is the same module under its older name, needed before Python 3.11.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

Kind = Literal["none", "requirements", "pyproject", "project", "uv", "poetry-lock", "poetry"]

EXACT = frozenset({"uv", "poetry-lock"})
"""The kinds that name each package, and those it needs, with one version."""

_CLAUSE = re.compile(r"(~=|==|!=|>=|<=|>|<)\s*(\d+(?:\.\d+)*)(\.\*)?")


@dataclass(frozen=True)
class Dependencies:
    """What is to be installed.

    Attributes:
        kind: ``requirements`` (a requirements.txt), ``pyproject`` (the static dependencies of one), ``project`` (a
            pyproject.toml whose dependencies only a build can tell: the project is installed), ``uv`` (a uv.lock),
            ``poetry-lock`` (a poetry.lock), ``poetry`` (Poetry's own tables, without a lock) or ``none``.
        directory: where the file was found.
        packages: for ``pyproject``, the PEP 508 requirements; for ``requirements``, its lines as uv reads them.
        constraints: for ``requirements``, the lines of its constraints.
        inputs: name → digest or text of all that the result depends on.
        local: whether code of the repository itself is installed, so that the result depends on the whole commit.
        empty: whether there is nothing to install, where that is known without a tool.
        only_pip: whether only pip understands all that is said.
        as_written: whether pip is given the file itself, not ``packages``.
        hashed: for a lock, whether all of its packages have hashes.
        indexes: further package indexes (or directories of packages) that a lock names.
        notes: what the operator should know, for the log.
    """

    kind: Kind
    directory: Path
    packages: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    local: bool = False
    empty: bool = False
    only_pip: bool = False
    as_written: bool = False
    hashed: bool = False
    indexes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_dependencies(checkout: Path, code_path: str, python: tuple[int, int, int]) -> Dependencies:
    """Look for a dependency file in ``code_path`` and then in each directory above it, up to the repository's root.

    In one directory ``requirements.txt`` comes before ``pyproject.toml``, for which a ``uv.lock`` or ``poetry.lock``
    beside it counts. A pyproject.toml that only configures tools does not count.

    Raises:
        EnvironmentBuildError: the file is malformed, leads outside of the repository, does not fit its lock, or asks
            for another version of Python.
        MissingPathError: the file refers to a path that is not in the checkout.
    """
    root = checkout.resolve()
    directory = checkout / code_path
    while True:
        found = _in_directory(directory, root, python)
        if found is not None:
            return found
        if directory == checkout:
            break
        directory = directory.parent
    note = "no requirements.txt and no pyproject.toml was found: the code gets an environment without packages"
    return Dependencies("none", checkout / code_path, empty=True, notes=(note,))


def _in_directory(directory: Path, root: Path, python: tuple[int, int, int]) -> Dependencies | None:
    requirements, pyproject = directory / "requirements.txt", directory / "pyproject.toml"
    if requirements.is_symlink() or requirements.is_file():
        read = read_requirements(requirements, root)
        inputs = {name: digest(content) for name, content in sorted(read.files.items())}
        return Dependencies(
            "requirements",
            directory,
            tuple(read.lines),
            tuple(read.constraints),
            inputs,
            local=read.local,
            empty=read.empty,
            only_pip=read.only_pip,
            as_written=read.only_pip or not read.rewritten,
        )
    if not (pyproject.is_symlink() or pyproject.is_file()):
        return None
    document, _ = _read_toml(pyproject, root)
    project = document.get("project")
    if not isinstance(project, dict) and not poetry_table(document):
        return None
    name = _name_of(pyproject, root)
    if isinstance(project, dict):
        _check_project(project, name, python)
        if (directory / "uv.lock").is_file():
            return _from_uv_lock(project, directory, root)
    if (directory / "poetry.lock").is_file():
        return _from_poetry_lock(document, directory, root)
    if not isinstance(project, dict) or (poetry_table(document) and "dependencies" in project.get("dynamic", [])):
        found = read_poetry_tables(document, directory, root, name)
        inputs = {"poetry": poetry_inputs(document)}
        return Dependencies("poetry", directory, inputs=inputs, local=found.local, indexes=found.indexes)
    return _from_project(project, directory, root, name)


def _from_uv_lock(project: dict[str, Any], directory: Path, root: Path) -> Dependencies:
    document, content = _read_toml(directory / "uv.lock", root)
    lock = read_uv_lock(document, project, directory, root, _name_of(directory / "uv.lock", root))
    inputs = {"uv.lock": digest(content), "requires-python": project.get("requires-python", "")}
    return Dependencies("uv", directory, inputs=inputs, local=lock.local, hashed=lock.hashed, indexes=lock.indexes)


def _from_poetry_lock(document: dict[str, Any], directory: Path, root: Path) -> Dependencies:
    locked, content = _read_toml(directory / "poetry.lock", root)
    lock = read_poetry_lock(locked, directory, root, _name_of(directory / "poetry.lock", root))
    inputs = {"poetry.lock": digest(content), "poetry": poetry_inputs(document)}
    return Dependencies("poetry-lock", directory, inputs=inputs, local=lock.local, hashed=lock.hashed)


def _read_toml(path: Path, root: Path) -> tuple[dict[str, Any], bytes]:
    name = _name_of(path, root)
    content = inside(path, root, name).read_bytes()
    try:
        return _toml.loads(content.decode()), content
    except ValueError as malformed:  # both libraries' error, and UnicodeDecodeError, are ValueErrors
        raise EnvironmentBuildError(f"{name} is no valid TOML: {malformed}") from malformed


def _name_of(path: Path, root: Path) -> str:
    return str((path.parent.resolve() / path.name).relative_to(root))


def _check_project(project: dict[str, Any], name: str, python: tuple[int, int, int]) -> None:
    requires = project.get("requires-python", "")
    packages = project.get("dependencies", [])
    if not isinstance(requires, str):
        raise EnvironmentBuildError(f"{name}: project.requires-python must be a string")
    if not (isinstance(packages, list) and all(isinstance(entry, str) and _is_package(entry) for entry in packages)):
        raise EnvironmentBuildError(f"{name}: project.dependencies must be a list of requirements like 'numpy>=2'")
    if not _allows(requires, python):
        raise EnvironmentBuildError(
            f"{name} requires Python {requires}, but the interpreter is {'.'.join(map(str, python))}: "
            "set deployment.python to another one"
        )


def _from_project(project: dict[str, Any], directory: Path, root: Path, name: str) -> Dependencies:
    packages = project.get("dependencies", [])
    inputs = {"requires-python": project.get("requires-python", ""), "dependencies": "\n".join(packages)}
    notes: list[str] = []
    above = next((parent for parent in directory.resolve().parents if (parent / "uv.lock").is_file()), None)
    if above is not None and above.is_relative_to(root):
        lock = _name_of(above / "uv.lock", root)
        notes.append(f"{lock} is not read, since it is not beside {name}: the newest packages allowed are installed")
    dynamic = "dependencies" in project.get("dynamic", [])
    local = dynamic or any("file:" in entry for entry in packages)
    return Dependencies(
        "project" if dynamic else "pyproject",
        directory,
        packages=tuple(packages),
        inputs=inputs,
        local=local,
        empty=not packages and not dynamic,
        notes=tuple(notes),
    )


def _is_package(entry: str) -> bool:
    return bool(entry.strip()) and entry.strip()[0].isalnum() and "\n" not in entry


def _allows(specifier: str, python: tuple[int, int, int]) -> bool:
    """Whether a ``requires-python`` admits a release version. A clause that is not understood is left to pip."""
    return all(_clause_allows(clause.strip(), python) for clause in specifier.split(",") if clause.strip())


def _clause_allows(clause: str, python: tuple[int, int, int]) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        return True
    operator, wildcard = match[1], bool(match[3])
    given = tuple(map(int, match[2].split(".")))
    padded = (*given, 0, 0)[: max(3, len(given))]
    same = python[: len(given)] == given if wildcard else python == padded
    prefix = given[:-1]
    outcomes = {
        ">=": python >= padded,
        "<=": python <= padded,
        ">": python > padded,
        "<": python < padded,
        "==": same,
        "!=": not same,
        "~=": python >= padded and python[: len(prefix)] == prefix,
    }
    return outcomes[operator]
