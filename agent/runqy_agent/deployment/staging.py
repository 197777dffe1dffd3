"""Checking out a release to be: widened until nothing that it refers to is missing, and kept inside its repository."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runqy_agent.deployment.git import Checkout
from runqy_agent.deployment.requirements import MissingPathError
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.git import Repository, Resolved

log = logging.getLogger(__name__)


async def check_out(
    repository: Repository, resolved: Resolved, staging: Path, code_path: str, plan: Callable[[str], EnvironmentPlan]
) -> tuple[str, EnvironmentPlan]:
    """Fetch and check out into ``staging/code``; return the commit and the plan of its environment.

    A sparse checkout may lack what ``code_path`` is a link to, or what a requirements file includes: that is checked
    out as well.

    Args:
        repository: where from.
        resolved: what.
        staging: an empty ``code`` is in it.
        code_path: the directory wanted; empty for all.
        plan: works out the environment for a commit from the files there are.

    Raises:
        GitError: fetching failed, or ``code_path`` is no directory inside the repository.
        EnvironmentBuildError: the dependency files are not usable.
    """
    checkout = Checkout("", staging / "code", staging / "index", code_path)
    await repository.obtain(resolved, checkout)
    if (missing := _missing_code_path(checkout)) and missing != code_path:
        checkout.extra = (missing,)
        await repository.update(checkout)
        missing = _missing_code_path(checkout)
    if missing:
        raise GitError(f"code_path {code_path!r} is no directory at commit {checkout.commit[:12]}")
    while True:
        try:
            planned = await asyncio.to_thread(plan, checkout.commit)
            break
        except MissingPathError as elsewhere:
            if not code_path or elsewhere.path in checkout.extra:
                raise
            checkout.extra += (elsewhere.path,)
            await repository.update(checkout)
    await asyncio.to_thread(checkout.index.unlink)
    if (checkout.directory / ".gitmodules").is_file():
        log.warning("the repository has submodules, which are not fetched")
    return checkout.commit, planned


def _missing_code_path(checkout: Checkout) -> str:
    """The path that is to be checked out still so that ``code_path`` is a directory; empty if it is one.

    Raises:
        GitError: it leads outside of the checkout.
    """
    root = checkout.directory.resolve()
    real = (checkout.directory / checkout.code_path).resolve()
    if not real.is_relative_to(root):
        raise GitError(f"code_path {checkout.code_path!r} leads outside of the repository")
    return "" if real.is_dir() else str(real.relative_to(root))
