"""What the task author's code needs: which file says so, and what an environment made from it depends on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runqy_agent.child_environment import BUILD, inherit
from runqy_agent.deployment.locks import digest
from runqy_agent.deployment.projects import name_of, read_project
from runqy_agent.deployment.requirements import read_requirements
from runqy_agent.deployment.wanted import Dependencies, Kind, Selection
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EXACT", "Dependencies", "Kind", "Selection", "find_dependencies"]

EXACT = frozenset({"uv", "poetry-lock"})
"""The kinds that name each package, and those it needs, with one version."""

_ADVICE = {
    "setup.py": "add a requirements.txt that says `.`",
    "setup.cfg": "add a requirements.txt that says `.`",
    "Pipfile": "run `pipenv requirements > requirements.txt` and commit it",
    "environment.yml": "conda's environments are not made here: list what pip can install in a requirements.txt",
    "environment.yaml": "conda's environments are not made here: list what pip can install in a requirements.txt",
}


def find_dependencies(
    checkout: Path,
    code_path: str,
    python: tuple[int, int, int],
    selection: Selection = Selection(),  # noqa: B008 - frozen
) -> Dependencies:
    """Look for a dependency file in ``code_path`` and then in each directory above it, up to the repository's root.

    In one directory ``requirements.txt`` comes before ``pyproject.toml``, for which a ``uv.lock`` or ``poetry.lock``
    counts. A pyproject.toml that only configures tools does not count.

    Raises:
        EnvironmentBuildError: the file is malformed, leads outside of the repository, does not fit its lock, asks
            for another version of Python, or has no such extra or group.
        MissingPathError: the file refers to a path that is not in the checkout.
    """
    root = checkout.resolve()
    directory = checkout / code_path
    if selection.requirements_file:
        return _from_requirements(directory, selection.requirements_file, root, selection)
    passed_over: list[str] = []
    while True:
        found = _in_directory(directory, root, python, selection)
        if found is not None:
            return found
        passed_over += _passed_over(directory, root)
        if directory == checkout:
            break
        directory = directory.parent
    note = "no requirements.txt and no pyproject.toml was found: the code gets an environment without packages"
    if passed_over:
        note = f"{note}; {'; '.join(passed_over)}"
    return Dependencies("none", checkout / code_path, empty=True, notes=(note,))


def _in_directory(
    directory: Path, root: Path, python: tuple[int, int, int], selection: Selection
) -> Dependencies | None:
    requirements, pyproject = directory / "requirements.txt", directory / "pyproject.toml"
    if requirements.is_symlink() or requirements.is_file():
        return _from_requirements(directory, requirements.name, root, selection)
    if pyproject.is_symlink() or pyproject.is_file():
        return read_project(directory, root, python, selection)
    return None


def _from_requirements(directory: Path, file: str, root: Path, selection: Selection) -> Dependencies:
    variables = {**inherit(BUILD), **selection.variables}
    read = read_requirements(directory / file, root, directory, variables)
    only_pip = read.only_pip or any(variables.get(name) for name in read.variables)  # uv expands some places alone
    if only_pip and read.needs_uv:
        raise EnvironmentBuildError(
            f"{name_of(directory / file, root)} has options or variables that only pip knows, and installs a project "
            "whose tool.uv.sources only uv knows: take out one of them, or commit a uv.lock and no requirements.txt"
        )
    notes: list[str] = []
    if selection.extras or selection.groups:
        notes.append(f"{file} has no extras and no groups: deployment.extras and deployment.groups are not used")
    if unset := sorted(name for name in read.variables if not variables.get(name)):
        notes.append(f"{file} names ${{{unset[0]}}}, which is not set for builds: deployment.build_env may name it")
    here = directory.resolve()
    return Dependencies(
        "requirements",
        directory,
        tuple(read.lines),
        tuple(read.constraints),
        # Relative, so that the same files in another place are the same.
        {os.path.relpath(root / name, here): digest(content) for name, content in sorted(read.files.items())}
        | {f"${{{name}}}": digest(variables.get(name, "").encode()) for name in sorted(read.variables)},
        local=read.local,
        empty=read.empty,
        requirements_file="" if read.rewritten and not only_pip else file,
        only_pip=only_pip,
        needs_uv=read.needs_uv,
        notes=tuple(notes),
    )


def _passed_over(directory: Path, root: Path) -> list[str]:
    """What says something about packages in a way that is not read, with what to do."""
    found = [
        f"{name_of(directory / name, root)} is not read: {advice}"
        for name, advice in _ADVICE.items()
        if (directory / name).is_file()
    ]
    if (directory / "pyproject.toml").is_file():
        content = (directory / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
        if "[tool.uv.workspace]" in content:
            found.append(
                f"{name_of(directory / 'pyproject.toml', root)} is the root of a workspace and no project: set "
                "code_path to one of its members"
            )
    others = sorted(
        {
            *directory.glob("requirements*.txt"),
            *directory.glob("requirements/*.txt"),
            *directory.glob("*/requirements.txt"),
        }
    )
    if others:
        names = ", ".join(name_of(path, root) for path in others[:5])
        found.append(
            f"{names} would be read if deployment.requirements_file, or a requirements.txt that says `-r …`, named it"
        )
    return found
