"""Reading a ``pyproject.toml`` and the lock that belongs to it."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from runqy_agent.deployment.locks import (
    as_text,
    digest,
    poetry_inputs,
    poetry_table,
    read_poetry_lock,
    read_poetry_tables,
    read_uv_lock,
    table,
    tables,
)
from runqy_agent.deployment.requirement_lines import local_target
from runqy_agent.deployment.requirements import inside
from runqy_agent.deployment.wanted import Dependencies, Selection
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# tomli is the same module under its older name, needed before Python 3.11.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_UV_INPUTS = ("sources", "index", "workspace", "package", "override-dependencies", "constraint-dependencies")


def read_project(
    directory: Path, root: Path, python: tuple[int, int, int], selection: Selection
) -> Dependencies | None:
    """Read the project in a directory; None if its pyproject.toml only configures tools.

    A ``uv.lock`` counts beside it or at the root of its workspace, a ``poetry.lock`` beside it.

    Raises:
        EnvironmentBuildError: a file is malformed, leads outside of the repository, does not fit its lock, asks for
            another version of Python, or has no such extra or group.
        MissingPathError: a file refers to a path that is not in the checkout.
    """
    document, _ = _read_toml(directory / "pyproject.toml", root)
    project, poetry = table(document, "project"), poetry_table(document)
    if "project" not in document and not poetry:
        return None
    name = name_of(directory / "pyproject.toml", root)
    home = _workspace(directory, document, root)
    if "project" in document:
        _check_project(project, name, python)
        if (directory / "uv.lock").is_file():
            return _from_uv_lock(document, directory, directory, root, selection)
        if home is not None and (home / "uv.lock").is_file():
            return _from_uv_lock(document, directory, home, root, selection)
    if (directory / "poetry.lock").is_file():
        return _from_poetry_lock(document, directory, root, selection)
    if "project" not in document or (poetry and "dependencies" in project.get("dynamic", [])):
        return _from_poetry(document, directory, root, name, selection)
    return _from_project(document, directory, home, root, selection)


def name_of(path: Path, root: Path) -> str:
    """The path as it is called in messages: relative to the repository."""
    return str((path.parent.resolve() / path.name).relative_to(root))


def _read_toml(path: Path, root: Path) -> tuple[dict[str, Any], bytes]:
    name = name_of(path, root)
    content = inside(path, root, name).read_bytes()
    try:
        return _toml.loads(content.decode()), content
    except ValueError as malformed:  # both libraries' error, and UnicodeDecodeError, are ValueErrors
        raise EnvironmentBuildError(f"{name} is no valid TOML: {malformed}") from malformed


def _check_project(project: Mapping[str, Any], name: str, python: tuple[int, int, int]) -> None:
    requires = project.get("requires-python", "")
    packages = project.get("dependencies", [])
    version = ".".join(map(str, python))
    if not isinstance(requires, str):
        raise EnvironmentBuildError(f"{name}: project.requires-python must be a string")
    if not isinstance(packages, list) or not all(map(_is_package, packages)):
        raise EnvironmentBuildError(f"{name}: project.dependencies must be a list of requirements like 'numpy>=2'")
    try:
        allowed = SpecifierSet(requires).contains(version, prereleases=True)
    except InvalidSpecifier as invalid:
        raise EnvironmentBuildError(f"{name}: project.requires-python cannot be read: {invalid}") from invalid
    if not allowed:
        raise EnvironmentBuildError(
            f"{name} requires Python {requires}, but the interpreter is {version}: set deployment.python to another one"
        )


def _is_package(entry: object) -> bool:
    return isinstance(entry, str) and entry.strip()[:1].isalnum() and "\n" not in entry


def _workspace(directory: Path, document: Mapping[str, Any], root: Path) -> Path | None:
    """The root of the workspace of uv that a project belongs to."""
    if table(document, "tool", "uv", "workspace"):
        return directory
    here = directory.resolve()
    for parent in here.parents:
        if not parent.is_relative_to(root):
            return None
        if (parent / "pyproject.toml").is_file():
            above, _ = _read_toml(parent / "pyproject.toml", root)
            if workspace := table(above, "tool", "uv", "workspace"):
                members, excluded = (
                    {path for pattern in workspace.get(key, []) for path in parent.glob(pattern)}
                    for key in ("members", "exclude")
                )
                return parent if here in members - excluded else None
    return None


def _sources(
    document: Mapping[str, Any], directory: Path, home: Path | None, root: Path, name: str
) -> dict[str, list[dict[str, Any]]]:
    """Where uv takes packages from, by their names: as the root of the workspace says, and as the project says."""
    found: dict[str, list[dict[str, Any]]] = {}
    above = _read_toml(home / "pyproject.toml", root)[0] if home is not None else {}
    for base, said in ((home or directory, above), (directory, document)):
        for package, source in table(said, "tool", "uv", "sources").items():
            found[package] = list(tables(source if isinstance(source, list) else [source]))
            for entry in found[package]:
                if isinstance(entry.get("path"), str):
                    inside(base / entry["path"], root, name, installed=True)
    return found


def _is_packaged(document: Mapping[str, Any]) -> bool:
    packaged = table(document, "tool", "uv").get("package", "build-system" in document)
    return bool(packaged) and poetry_table(document).get("package-mode") is not False


def _from_uv_lock(
    document: Mapping[str, Any], directory: Path, home: Path, root: Path, selection: Selection
) -> Dependencies:
    locked, content = _read_toml(home / "uv.lock", root)
    project = table(document, "project")
    lock = read_uv_lock(locked, document, home, root, name_of(home / "uv.lock", root))
    inputs = {"uv.lock": digest(content), "requires-python": project.get("requires-python", "")}
    member = "" if home.resolve() == directory.resolve() else str(project.get("name", ""))
    return Dependencies(
        "uv",
        home,
        inputs=inputs | {"member": member},
        local=lock.local,
        whole=bool(table(_read_toml(home / "pyproject.toml", root)[0], "tool", "uv", "workspace")),
        member=member,
        selection=selection,
        indexes=lock.indexes,
    )


def _from_poetry_lock(document: Mapping[str, Any], directory: Path, root: Path, selection: Selection) -> Dependencies:
    locked, content = _read_toml(directory / "poetry.lock", root)
    lock = read_poetry_lock(locked, directory, root, name_of(directory / "poetry.lock", root))
    packaged = _is_packaged(document)
    return Dependencies(
        "poetry-lock",
        directory,
        inputs={"poetry.lock": digest(content), "poetry": poetry_inputs(document)},
        local=lock.local or packaged,
        packaged=packaged,
        selection=selection,
        indexes=lock.indexes,
    )


def _from_poetry(
    document: Mapping[str, Any], directory: Path, root: Path, name: str, selection: Selection
) -> Dependencies:
    local, options = read_poetry_tables(document, directory, root, name)
    packaged = _is_packaged(document)
    return Dependencies(
        "poetry",
        directory,
        tuple(options),
        inputs={"poetry": poetry_inputs(document)},
        local=local or packaged,
        packaged=packaged,
        selection=selection,
    )


def _from_project(
    document: Mapping[str, Any], directory: Path, home: Path | None, root: Path, selection: Selection
) -> Dependencies:
    project, name = table(document, "project"), name_of(directory / "pyproject.toml", root)
    sources = _sources(document, directory, home, root, name)
    installed = _is_packaged(document) or "dependencies" in project.get("dynamic", [])
    packages = [*_chosen(document, selection, name, with_extras=not installed)]
    if not installed:
        packages = [*project.get("dependencies", []), *packages]
    near = [target for entry in packages if (target := local_target(entry, directory)) is not None]
    for target in near:
        if target.startswith("file:") and not target.startswith("file:/"):
            inside(directory / target.removeprefix("file:"), root, name, installed=True)
    inputs = {"project": as_text(project), "groups": as_text(table(document, "dependency-groups"))}
    uv = table(document, "tool", "uv")
    inputs |= {"uv": as_text([sources, {key: uv.get(key) for key in _UV_INPUTS}])} if sources else {}
    return Dependencies(
        "project" if installed else "pyproject",
        directory,
        tuple(packages),
        inputs=inputs,
        local=installed
        or bool(near)
        or any(key in entry for entries in sources.values() for entry in entries for key in ("path", "workspace")),
        empty=not packages and not installed,
        needs_uv=bool(sources),
        packaged=installed,
        selection=selection,
        notes=tuple(_notes(directory, home, root, name)),
    )


def _notes(directory: Path, home: Path | None, root: Path, name: str) -> Iterator[str]:
    above = next((parent for parent in directory.resolve().parents if (parent / "uv.lock").is_file()), None)
    if home is None and above is not None and above.is_relative_to(root):
        lock = name_of(above / "uv.lock", root)
        yield f"{lock} is not read, since it is no lock of {name}: the newest packages allowed are installed"


def _chosen(document: Mapping[str, Any], selection: Selection, name: str, *, with_extras: bool) -> Iterator[str]:
    """The requirements of the chosen groups, and of the chosen extras."""
    groups: dict[str, Any] = {
        canonicalize_name(key): value for key, value in table(document, "dependency-groups").items()
    }
    for group in selection.groups:
        yield from _group(group, groups, name, ())
    project = table(document, "project")
    extras: dict[str, Any] = {
        canonicalize_name(key): value for key, value in table(project, "optional-dependencies").items()
    }
    if "optional-dependencies" not in project.get("dynamic", []):
        for extra in selection.extras:
            found = list(_extra(extra, extras, canonicalize_name(project.get("name", "")), name, ()))
            yield from found if with_extras else ()


def _group(group: str, groups: Mapping[str, Any], name: str, above: tuple[str, ...]) -> Iterator[str]:
    key = canonicalize_name(group)
    if key not in groups or key in above:
        raise EnvironmentBuildError(f"{name} has no dependency group {group} ({_listed(groups)})")
    for entry in groups[key]:
        if isinstance(entry, dict):
            yield from _group(str(entry.get("include-group")), groups, name, (*above, key))
        else:
            yield str(entry)


def _extra(extra: str, extras: Mapping[str, Any], own: str, name: str, above: tuple[str, ...]) -> Iterator[str]:
    key = canonicalize_name(extra)
    if key not in extras or key in above:
        raise EnvironmentBuildError(f"{name} has no extra {extra} ({_listed(extras)})")
    for entry in map(str, extras[key]):
        try:
            parsed = Requirement(entry)
        except InvalidRequirement:
            yield entry
            continue
        if canonicalize_name(parsed.name) == own:
            for inner in sorted(parsed.extras):
                yield from _extra(inner, extras, own, name, (*above, key))
        else:
            yield entry


def _listed(names: Mapping[str, Any]) -> str:
    return f"it has {', '.join(sorted(names))}" if names else "it has none"
