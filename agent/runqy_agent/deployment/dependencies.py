"""What the task author's code needs: which file says so, and what an environment made from it depends on."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runqy_agent.deployment.requirements import inside, read_requirements
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

# tomli is the same module under its older name, needed before Python 3.11.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

Kind = Literal["none", "requirements", "pyproject", "project"]
_CLAUSE = re.compile(r"(~=|==|!=|>=|<=|>|<)\s*(\d+(?:\.\d+)*)(\.\*)?")


@dataclass(frozen=True)
class Dependencies:
    """What is to be installed.

    Attributes:
        kind: ``requirements`` (a requirements.txt), ``pyproject`` (the static dependencies of one), ``project`` (a
            pyproject.toml whose dependencies only a build can tell: the project is installed) or ``none``.
        directory: where the file was found.
        packages: for ``pyproject``, the PEP 508 requirements.
        inputs: name → digest or text of all that the result depends on.
        local: whether code of the repository itself is installed, so that the result depends on the whole commit.
        empty: whether there is nothing to install.
        notes: what the operator should know, for the log.
    """

    kind: Kind
    directory: Path
    packages: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    local: bool = False
    empty: bool = False
    notes: tuple[str, ...] = ()


def find_dependencies(checkout: Path, code_path: str, python: tuple[int, int, int]) -> Dependencies:
    """Look for a dependency file in ``code_path`` and then in each directory above it, up to the repository's root.

    In one directory ``requirements.txt`` comes before ``pyproject.toml``. A pyproject.toml that only configures tools
    does not count.

    Raises:
        EnvironmentBuildError: the file is malformed, leads outside of the repository, belongs to Poetry alone, or asks
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
        inputs = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(read.files.items())}
        return Dependencies("requirements", directory, inputs=inputs, local=read.local, empty=read.empty)
    if not (pyproject.is_symlink() or pyproject.is_file()):
        return None
    name = str((directory.resolve() / "pyproject.toml").relative_to(root))
    try:
        document = _toml.loads(inside(pyproject, root, name).read_text(encoding="utf-8"))
    except ValueError as malformed:  # both libraries' error, and UnicodeDecodeError, are ValueErrors
        raise EnvironmentBuildError(f"{name} is no valid TOML: {malformed}") from malformed
    project = document.get("project")
    if isinstance(project, dict):
        return _from_project(project, directory, root, name, python)
    if "poetry" in document.get("tool", {}):
        raise EnvironmentBuildError(
            f"{name} declares its dependencies for Poetry, which this version does not support: add a requirements.txt "
            "(poetry export -o requirements.txt) or a [project] table with dependencies"
        )
    return None


def _from_project(
    project: dict[str, Any], directory: Path, root: Path, name: str, python: tuple[int, int, int]
) -> Dependencies:
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
    notes: list[str] = []
    inputs = {"requires-python": requires, "dependencies": "\n".join(packages)}
    for lock in ("uv.lock", "poetry.lock"):
        if (directory / lock).is_file():
            content = inside(directory / lock, root, name).read_bytes()
            inputs[lock] = hashlib.sha256(content).hexdigest()
            notes.append(f"{lock} is not read by this version: the newest packages that {name} allows are installed")
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
