"""Lock files of uv and Poetry, as far as they matter before their own tools read them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runqy_agent.deployment.requirements import inside
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PYPI = re.compile(r"https://pypi\.org/simple/?")
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?\s*\(?(?P<specifier>[^;@)]*)\)?\s*(?P<url>@.*)?"
)
_CLAUSE = re.compile(r"(~=|==|!=|>=|<=|>|<)\d+(\.\d+)*(\.\*)?")
_UV_LOCAL = ("directory", "editable", "path", "virtual")
_POETRY_LOCAL = {"directory", "file"}
_POETRY_WITHOUT_HASHES = _POETRY_LOCAL | {"git", "url"}
_POETRY_TABLES = ("dependencies", "dev-dependencies", "extras", "group", "package-mode", "source")
_PROJECT_TABLES = ("dependencies", "dynamic", "optional-dependencies", "requires-python")


@dataclass(frozen=True)
class Lock:
    """What is to be known of a lock before it is exported.

    Attributes:
        local: whether it installs code of the repository itself.
        hashed: whether each of its packages has hashes; else pip can check none at all.
        indexes: further package indexes its packages come from.
    """

    local: bool
    hashed: bool
    indexes: tuple[str, ...] = ()


def digest(content: bytes) -> str:
    """What a file's content adds to the key of an environment."""
    return hashlib.sha256(content).hexdigest()


def read_uv_lock(lock: dict[str, Any], project: dict[str, Any], directory: Path, root: Path, name: str) -> Lock:
    """Read a ``uv.lock`` and compare it with the ``[project]`` table beside it.

    Args:
        lock: the parsed lock.
        project: the parsed table.
        directory: where both are.
        root: the resolved root of the checkout.
        name: of the lock, for errors.

    Raises:
        EnvironmentBuildError: they do not fit together, or the lock leads outside of the repository.
        MissingPathError: a path of the lock is not in the checkout.
    """
    local, hashed, indexes = False, True, dict[str, None]()
    for package in _tables(lock.get("package")):
        source = package.get("source")
        source = source if isinstance(source, dict) else {}
        path = next((source[kind] for kind in _UV_LOCAL if isinstance(source.get(kind), str)), None)
        if path == ".":
            _check_fit(package, project, name)
            continue
        if path is not None:
            local = True
            _check_path(path, directory, root, name)
        hashed = hashed and path is None and "git" not in source and "url" not in source
        registry = source.get("registry")
        if isinstance(registry, str) and not _PYPI.fullmatch(registry):
            indexes[registry] = None
    return Lock(local, hashed, tuple(indexes))


def read_poetry_lock(lock: dict[str, Any], directory: Path, root: Path, name: str) -> Lock:
    """Read a ``poetry.lock``. Whether it fits, Poetry itself can tell: it holds a hash of what it was made from.

    Raises:
        EnvironmentBuildError: it leads outside of the repository.
        MissingPathError: a path of it is not in the checkout.
    """
    sources = [package["source"] for package in _tables(lock.get("package")) if isinstance(package.get("source"), dict)]
    for source in sources:
        if source.get("type") in _POETRY_LOCAL and isinstance(source.get("url"), str):
            _check_path(source["url"], directory, root, name)
    kinds = {source.get("type") for source in sources}
    return Lock(bool(kinds & _POETRY_LOCAL), not kinds & _POETRY_WITHOUT_HASHES)


def read_poetry_tables(document: dict[str, Any], directory: Path, root: Path, name: str) -> Lock:
    """The same facts where there is no lock, from the direct dependencies.

    Raises:
        EnvironmentBuildError: a path leads outside of the repository.
        MissingPathError: a path is not in the checkout.
    """
    poetry = poetry_table(document)
    dependencies = poetry.get("dependencies")
    local = False
    for value in dependencies.values() if isinstance(dependencies, dict) else ():
        for entry in _tables(value if isinstance(value, list) else [value]):
            path = entry.get("path", entry.get("file"))
            if isinstance(path, str):
                local = True
                _check_path(path, directory, root, name)
    urls = [source.get("url") for source in _tables(poetry.get("source"))]
    return Lock(local, hashed=False, indexes=tuple(url for url in urls if isinstance(url, str)))


def poetry_table(document: dict[str, Any]) -> dict[str, Any]:
    """The table ``[tool.poetry]``; an empty one if there is none."""
    tool = document.get("tool")
    table = tool.get("poetry") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else {}


def poetry_inputs(document: dict[str, Any]) -> str:
    """What of a pyproject.toml decides about the environment, in one text."""
    poetry, project = poetry_table(document), document.get("project")
    project = project if isinstance(project, dict) else {}
    parts = [
        {key: poetry.get(key) for key in _POETRY_TABLES},
        {key: project.get(key) for key in _PROJECT_TABLES},
    ]
    return json.dumps(parts, sort_keys=True, default=str)


def _tables(value: object) -> Iterator[dict[str, Any]]:
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else iter(())


def _check_path(path: str, directory: Path, root: Path, name: str) -> None:
    if not Path(path).is_absolute():
        inside(directory / path, root, name)


def _check_fit(package: dict[str, Any], project: dict[str, Any], name: str) -> None:
    if "dependencies" in project.get("dynamic", []):
        return
    metadata = package.get("metadata")
    entries = metadata.get("requires-dist") if isinstance(metadata, dict) else None
    locked = _by_name(
        (entry.get("name", ""), entry.get("extras", []), entry.get("specifier", ""))
        for entry in _tables(entries)
        if "extra ==" not in entry.get("marker", "")
    )
    asked = _by_name(_taken_apart(entry) for entry in project.get("dependencies", []))
    differing = sorted(
        package
        for package in locked.keys() | asked.keys()
        if package not in locked or package not in asked or not _agree(locked[package], asked[package])
    )
    if differing:
        raise EnvironmentBuildError(
            f"{name} does not fit the pyproject.toml beside it, which was changed after it ({', '.join(differing)}): "
            "run `uv lock` and commit both"
        )


def _taken_apart(requirement: str) -> tuple[str, list[str], str]:
    match = _REQUIREMENT.match(requirement.strip())
    if match is None:
        return requirement, [], ""
    extras = [extra.strip() for extra in (match["extras"] or "").split(",") if extra.strip()]
    return match["name"], extras, match["specifier"]


def _by_name(entries: Iterable[tuple[str, list[str], str]]) -> dict[str, set[tuple[frozenset[str], frozenset[str]]]]:
    found: dict[str, set[tuple[frozenset[str], frozenset[str]]]] = {}
    for name, extras, specifier in entries:
        clauses = frozenset(clause for part in specifier.split(",") if (clause := re.sub(r"\s", "", part)))
        found.setdefault(_normal(name), set()).add((frozenset(map(_normal, extras)), clauses))
    return found


def _agree(
    locked: set[tuple[frozenset[str], frozenset[str]]], asked: set[tuple[frozenset[str], frozenset[str]]]
) -> bool:
    """Whether both ask for the same. Versions that can be written in several ways are not compared."""
    clauses = [clause for _, each in (*locked, *asked) for clause in each]
    if all(_CLAUSE.fullmatch(clause) for clause in clauses):
        return locked == asked
    return {extras for extras, _ in locked} == {extras for extras, _ in asked}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
