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
        code_path: the directory of the code inside the checkout.
        environment: the virtual environment.
        python: the environment's interpreter.
        stale: whether it may be out of date, because the repository could not be read.
        stale_reason: why, without secrets.
        wanted: the commit that should have been there instead, where it is stale and that is known; else empty.
        reused: whether it was there already, so that an earlier process may have damaged it.
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
    code_path: str = ""
    reused: bool = field(default=True, compare=False)
    hold: Hold | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What it is, the same for one that was built afresh: commit, environment and code path."""
        return self.root.parent.name.partition(".")[0]
