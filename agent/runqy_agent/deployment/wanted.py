"""What is to be installed, as the files of a repository say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Kind = Literal["none", "requirements", "pyproject", "project", "uv", "poetry-lock", "poetry"]


@dataclass(frozen=True)
class Selection:
    """What the host and the server choose of what a repository offers.

    Attributes:
        extras: names of optional dependencies.
        groups: names of dependency groups.
        requirements_file: the file to read instead of those that are found, relative to ``code_path``.
        variables: what ``${NAME}`` in requirements may stand for, besides what every build finds.
    """

    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    requirements_file: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Dependencies:
    """What is to be installed.

    Attributes:
        kind: ``requirements`` (a requirements.txt), ``pyproject`` (the static dependencies of one), ``project`` (a
            pyproject.toml of a package, or one whose dependencies only a build can tell: the project is installed),
            ``uv`` (a uv.lock), ``poetry-lock`` (a poetry.lock), ``poetry`` (Poetry's own tables, without a lock) or
            ``none``.
        directory: where it is installed from: paths are relative to it.
        packages: lines of a requirements file: for ``requirements``, its own as uv reads them.
        constraints: for ``requirements``, the lines of its constraints.
        inputs: name → digest or text of all that the result depends on.
        local: whether code of the repository itself is installed, so that the result depends on the whole commit.
        whole: whether all of the repository must be checked out for the tools to read it.
        empty: whether there is nothing to install, where that is known without a tool.
        requirements_file: for ``requirements``, its path from ``directory``, if pip is given the file itself.
        only_pip: whether only pip understands all that is said.
        needs_uv: whether only uv finds the packages, since a project names sources for it.
        member: for ``uv``, the package of a workspace that is installed.
        packaged: whether the project itself is installed as well.
        selection: which extras and groups, where the tools are to choose them.
        indexes: name and version of a package → the index, or directory of packages, that it comes from and no other.
        notes: what the operator should know, for the log.
    """

    kind: Kind
    directory: Path
    packages: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    local: bool = False
    whole: bool = False
    empty: bool = False
    requirements_file: str = ""
    only_pip: bool = False
    needs_uv: bool = False
    member: str = ""
    packaged: bool = False
    selection: Selection = field(default_factory=Selection)
    indexes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
