"""Lock files of uv and Poetry, as far as they matter before their own tools read them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from runqy_agent.deployment.requirements import inside
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_PYPI = re.compile(r"https://pypi\.org/simple/?")
_UV_LOCAL = ("directory", "editable", "path")
_UV_DIRECT = (*_UV_LOCAL, "virtual", "git", "url")
_POETRY_LOCAL = {"directory", "file"}
_POETRY_TABLES = ("dependencies", "dev-dependencies", "extras", "group", "package-mode", "packages", "source")
_PROJECT_TABLES = ("name", "version", "dependencies", "dynamic", "optional-dependencies", "requires-python")

Indexes = dict[tuple[str, str], str]
"""Name and version of a package → the index, or the directory of packages, that it comes from and no other."""


@dataclass(frozen=True)
class Lock:
    """What is to be known of a lock before it is exported.

    Attributes:
        local: whether it installs code of the repository itself.
        indexes: where packages come from that do not come from PyPI.
    """

    local: bool
    indexes: Indexes = field(default_factory=dict)


def digest(content: bytes) -> str:
    """What a file's content adds to the key of an environment."""
    return hashlib.sha256(content).hexdigest()


def read_uv_lock(lock: Mapping[str, Any], document: Mapping[str, Any], directory: Path, root: Path, name: str) -> Lock:
    """Read a ``uv.lock`` and compare it with the project that is to be installed.

    Args:
        lock: the parsed lock.
        document: the parsed pyproject.toml.
        directory: where the lock is.
        root: the resolved root of the checkout.
        name: of the lock, for errors.

    Raises:
        EnvironmentBuildError: they do not fit together, or the lock leads outside of the repository.
        MissingPathError: a path of the lock is not in the checkout.
    """
    packages = list(tables(lock.get("package")))
    project, sources = table(document, "project"), table(document, "tool", "uv", "sources")
    own = canonicalize_name(project.get("name", ""))
    for package in packages:
        if package.get("name") == own and any(
            kind in _source(package) for kind in ("editable", "virtual", "directory")
        ):
            _check_fit(package, project, sources, name)
    local, indexes = False, Indexes()
    for package in _needed(own, packages):
        source = _source(package)
        path = next((source[kind] for kind in _UV_LOCAL if isinstance(source.get(kind), str)), None)
        if path is not None:
            local = True
            _check_path(path, directory, root, name)
        _note_index(indexes, package, source.get("registry"), name)
    return Lock(local, indexes)


def read_poetry_lock(lock: Mapping[str, Any], directory: Path, root: Path, name: str) -> Lock:
    """Read a ``poetry.lock``. Whether it fits, Poetry itself can tell: it holds a hash of what it was made from.

    Raises:
        EnvironmentBuildError: it leads outside of the repository.
        MissingPathError: a path of it is not in the checkout.
    """
    local, indexes = False, Indexes()
    for package in tables(lock.get("package")):
        source = _source(package)
        if source.get("type") in _POETRY_LOCAL and isinstance(source.get("url"), str):
            local = True
            _check_path(source["url"], directory, root, name)
        _note_index(indexes, package, source.get("url") if source.get("type") == "legacy" else None, name)
    return Lock(local, indexes)


def read_poetry_tables(document: Mapping[str, Any], directory: Path, root: Path, name: str) -> tuple[bool, list[str]]:
    """The same facts where there is no lock: whether code of the repository is installed, and options of indexes.

    Raises:
        EnvironmentBuildError: a path leads outside of the repository, or only a lock keeps a package to its source.
        MissingPathError: a path is not in the checkout.
    """
    poetry = poetry_table(document)
    dependencies = poetry.get("dependencies")
    local = False
    for package, value in dependencies.items() if isinstance(dependencies, dict) else ():
        for entry in tables(value if isinstance(value, list) else [value]):
            if "source" in entry:
                raise EnvironmentBuildError(
                    f"{name} takes {package} from the source {entry['source']} and from no other, which only a lock "
                    "keeps to: run `poetry lock` and commit poetry.lock"
                )
            path = entry.get("path", entry.get("file"))
            if isinstance(path, str):
                local = True
                _check_path(path, directory, root, name)
    options: list[str] = []
    for source in tables(poetry.get("source")):
        url, priority = source.get("url"), source.get("priority", "primary")
        if isinstance(url, str) and priority != "explicit":
            first = priority in {"primary", "default"} and not any(each.startswith("--index-url") for each in options)
            options.append(f"{'--index-url' if first else '--extra-index-url'} {url}")
    return local, options


def poetry_table(document: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``[tool.poetry]``; an empty one if there is none."""
    return table(document, "tool", "poetry")


def poetry_inputs(document: Mapping[str, Any]) -> str:
    """What of a pyproject.toml decides about the environment, in one text."""
    poetry, project = poetry_table(document), table(document, "project")
    parts = [
        {key: poetry.get(key) for key in _POETRY_TABLES},
        {key: project.get(key) for key in _PROJECT_TABLES},
    ]
    return as_text(parts)


def as_text(value: object) -> str:
    """A parsed part of a file as one text that is the same for the same content."""
    return json.dumps(value, sort_keys=True, default=str)


def table(document: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A table inside a document; an empty one if there is none."""
    for key in path:
        inner = document.get(key)
        document = inner if isinstance(inner, dict) else {}
    return dict(document)


def tables(value: object) -> Iterator[dict[str, Any]]:
    """The tables of an array of them; what is something else is left out."""
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else iter(())


def _source(package: Mapping[str, Any]) -> dict[str, Any]:
    return table(package, "source")


def _needed(own: str, packages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The packages that one may need, itself included: all of them if the lock does not have it."""
    if not any(package.get("name") == own for package in packages):
        yield from packages
        return
    names, seen = [own], {own}
    while names:
        name = names.pop()
        for package in (package for package in packages if package.get("name") == name):
            yield package
            groups = [*table(package, "optional-dependencies").values(), *table(package, "dev-dependencies").values()]
            for entries in (package.get("dependencies"), *groups):
                found = {str(entry.get("name")) for entry in tables(entries)} - seen
                seen |= found
                names += found


def _note_index(indexes: Indexes, package: Mapping[str, Any], index: object, name: str) -> None:
    index = "" if not isinstance(index, str) or _PYPI.fullmatch(index) else index
    key = (canonicalize_name(str(package.get("name"))), str(package.get("version")))
    if indexes.setdefault(key, index) != index:
        raise EnvironmentBuildError(f"{name} takes {key[0]} {key[1]} from two indexes, which cannot be told apart here")


def _check_path(path: str, directory: Path, root: Path, name: str) -> None:
    if not Path(path).is_absolute():
        inside(directory / path, root, name, installed=True)


def _check_fit(package: Mapping[str, Any], project: Mapping[str, Any], sources: Iterable[str], name: str) -> None:
    if "dependencies" in project.get("dynamic", []):
        return
    entries = list(tables(table(package, "metadata").get("requires-dist")))
    plain = [entry for entry in entries if "extra ==" not in entry.get("marker", "")]
    locked = _by_name(
        (str(entry.get("name")), entry.get("extras", ()), SpecifierSet(entry.get("specifier", ""))) for entry in plain
    )
    asked = _by_name(_taken_apart(entry) for entry in project.get("dependencies", []))
    differing = {package for package in locked.keys() | asked.keys() if locked.get(package) != asked.get(package)}
    direct = {entry.get("name") for entry in entries if any(kind in entry for kind in (*_UV_DIRECT, "index"))}
    differing |= {each for each in map(canonicalize_name, sources) if each in locked and each not in direct}
    if differing:
        raise EnvironmentBuildError(
            f"{name} does not fit the pyproject.toml beside it, which was changed after it "
            f"({', '.join(sorted(differing))}): run `uv lock` and commit both"
        )


def _taken_apart(requirement: str) -> tuple[str, Iterable[str], SpecifierSet]:
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return requirement, (), SpecifierSet()
    return parsed.name, parsed.extras, parsed.specifier


def _by_name(
    entries: Iterable[tuple[str, Iterable[str], SpecifierSet]],
) -> dict[str, set[tuple[frozenset[str], SpecifierSet]]]:
    found: dict[str, set[tuple[frozenset[str], SpecifierSet]]] = {}
    for name, extras, specifier in entries:
        found.setdefault(canonicalize_name(name), set()).add((frozenset(map(canonicalize_name, extras)), specifier))
    return found
