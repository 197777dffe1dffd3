"""Checking out a release to be: widened until nothing that it refers to is missing, and kept inside its repository."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runqy_agent.deployment.requirements import MissingPathError
from runqy_agent.deployment.working_tree import Checkout, lfs_pointers, links
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.git import Repository, Resolved
    from runqy_agent.deployment.submodules import Submodules

log = logging.getLogger(__name__)

_MOST_NAMED = 5


async def check_out(
    repository: Repository,
    resolved: Resolved,
    staging: Path,
    code_path: str,
    plan: Callable[[str], EnvironmentPlan],
    *,
    submodules: Submodules | None = None,
) -> tuple[str, EnvironmentPlan]:
    """Fetch and check out into ``staging/code``; return the commit and the plan of its environment.

    A sparse checkout may lack what ``code_path`` is a link to, what links in it lead to, or what a requirements file
    includes: that is checked out as well. If something of the repository itself is installed, all of it is.

    Args:
        repository: where from.
        resolved: what.
        staging: an empty ``code`` is in it.
        code_path: the directory wanted; empty for all.
        plan: works out the environment for a commit from the files there are.
        submodules: checks them out, if they are wanted.

    Raises:
        GitError: fetching failed, ``code_path`` is no directory inside the repository, or a link leads out of it.
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
        if submodules is not None:
            await submodules.fill(checkout)
        try:
            planned = await asyncio.to_thread(plan, checkout.commit)
        except MissingPathError as elsewhere:
            if checkout.whole or (elsewhere.path in checkout.extra and not elsewhere.installed):
                raise
            checkout.whole = elsewhere.path in checkout.extra
            checkout.extra += (elsewhere.path,)
        else:
            if checkout.whole or not (planned.dependencies.local or planned.dependencies.whole):
                await _follow_links(repository, checkout)
                break
            checkout.whole = True  # a build may read whatever it finds on its author's machine
        await repository.update(checkout)
    await asyncio.to_thread(checkout.index.unlink)
    await asyncio.to_thread(_warn, checkout.directory, submodules)
    return checkout.commit, planned


def _warn(directory: Path, submodules: Submodules | None) -> None:
    """Say what of the repository is not there."""
    if submodules is None and (directory / ".gitmodules").is_file():
        log.warning("the repository has submodules, which are not fetched: deployment.submodules lets them be")
    if pointers := lfs_pointers(directory):
        named = ", ".join(pointers[:_MOST_NAMED]) + (" and others" if len(pointers) > _MOST_NAMED else "")
        log.warning("pointers of Git LFS stand for files, since git-lfs is not installed or failed: %s", named)


async def _follow_links(repository: Repository, checkout: Checkout) -> None:
    """Check out what links lead to, and what links in there lead to.

    Raises:
        GitError: one leads outside of the repository.
    """
    while missing := await asyncio.to_thread(_missing_targets, checkout):
        checkout.extra += tuple(sorted(missing))
        await repository.update(checkout)


def _missing_targets(checkout: Checkout) -> set[str]:
    root = checkout.directory.resolve()
    places = [root / path for path in (checkout.code_path, *checkout.extra)]
    missing, seen = set[str](), set(places)
    for place in places:  # which grows: what a link leads to may hold links as well
        for link in links(place):
            try:
                real = link.resolve()
            except RuntimeError:  # links that lead to each other: Python 3.13 gives the path back
                continue
            if not real.is_relative_to(root):
                name = link.relative_to(root)
                raise GitError(f"{name} is a link that leads outside of the repository, to {link.readlink()}")
            target = str(real.relative_to(root))
            if real.exists():
                places += [] if real in seen else [real]
                seen.add(real)
            elif not checkout.whole and target not in checkout.extra:
                missing.add(target)
    return missing


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
