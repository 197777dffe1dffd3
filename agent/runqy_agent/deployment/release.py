"""What a deployment comes to: code and environment that can be started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from runqy_agent.deployment.holds import Hold


@dataclass(frozen=True)
class Release:
    """Code and environment of one queue, ready to be started.

    Attributes:
        queue: the parent queue it is for.
        commit: the commit, in full.
        branch: the branch, tag or commit name it was asked for by.
        root: the root of the checkout. Nothing in it changes any more.
        code_dir: the process's working directory: ``root`` or, below it, ``code_path``.
        environment: the virtual environment.
        python: the environment's interpreter.
        stale: whether it may be out of date, because the repository could not be read.
        stale_reason: why, without secrets.
        wanted: the commit that should have been there instead, where it is stale and that is known; else empty.
        hold: keeps it from being removed, until ``Deployer.let_go`` or until nobody refers to this object any more.
    """

    queue: str
    commit: str
    branch: str
    root: Path
    code_dir: Path
    environment: Path
    python: Path
    stale: bool = False
    stale_reason: str = ""
    wanted: str = ""
    hold: Hold | None = field(default=None, repr=False, compare=False)
