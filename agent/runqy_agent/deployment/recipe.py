"""How an environment is filled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One command that installs.

    Attributes:
        arguments: what it is told to install.
        lines: or the lines of a requirements file.
        constraints: the lines of its constraints.
        file: the file that pip reads instead of ``lines``.
        index: the only index, or directory of packages, that may be asked; the host's own if empty.
        no_deps: whether nothing else is installed: a lock has it all, and an override in it may even contradict.
    """

    arguments: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    file: str = ""
    index: str = ""
    no_deps: bool = False


@dataclass(frozen=True)
class Recipe:
    """How an environment is filled.

    Attributes:
        steps: one after the other.
        uv: the uv that must do it, if only uv can.
    """

    steps: tuple[Step, ...]
    uv: str = ""
