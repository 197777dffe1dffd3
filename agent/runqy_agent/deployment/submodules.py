"""Submodules, where the operator wants them (``deployment.submodules``), under the rules for any repository."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from runqy_agent.deployment.git import Resolved
from runqy_agent.deployment.source import parse_location
from runqy_agent.deployment.working_tree import Checkout
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from runqy_agent.deployment.git import Repository

log = logging.getLogger(__name__)

_DEEPEST = 5


class Submodules:
    """Checks out the submodules of one release.

    Args:
        repository: that of the release.
        open_repository: gives access to another one by its URL, if that is allowed.
        staging: where indexes may be put.
    """

    def __init__(self, repository: Repository, open_repository: Callable[[str], Repository], staging: Path) -> None:
        self._repository = repository
        self._open = open_repository
        self._staging = staging
        self._there: set[Path] = set()

    async def fill(self, checkout: Checkout) -> None:
        """Check out those of the submodules wanted that are not there yet.

        Raises:
            GitError: one of them is not allowed, or cannot be fetched.
        """
        await self._fill(self._repository, checkout, 0)

    async def _fill(self, repository: Repository, checkout: Checkout, depth: int) -> None:
        wanted = None if checkout.whole else (checkout.code_path, *checkout.extra)
        for path, url, commit in await repository.submodules(checkout):
            directory = checkout.directory / path
            if directory in self._there or not (wanted is None or _is_below(path, wanted)):
                continue
            if depth >= _DEEPEST:
                raise GitError(f"submodules are nested more than {_DEEPEST} levels deep at {path}")
            self._there.add(directory)
            absolute = absolute_url(url, repository.url)
            if parse_location(absolute).transport == "file" and parse_location(repository.url).transport != "file":
                raise GitError(f"the submodule {path} is on this host ({absolute}), and its repository is not")
            log.info("fetching the submodule %s", path)
            inner = self._open(absolute)
            index = self._staging / f"index-{len(self._there)}"
            part = Checkout(commit, directory, index, "")
            await inner.obtain(Resolved(commit), part)
            index.unlink(missing_ok=True)
            await self._fill(inner, part, depth + 1)


def absolute_url(url: str, parent: str) -> str:
    """The URL of a submodule, which may be relative to that of its repository, as Git reads it."""
    if not url.startswith(("./", "../")):
        return url
    base = parent.rstrip("/")
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            cut = max(base.rfind("/"), base.rfind(":"))
            base = base[: cut + 1].rstrip("/") if base[cut : cut + 1] == ":" else base[:cut]
        url = url.partition("/")[2]
    return f"{base}{url}" if base.endswith(":") else f"{base}/{url}"


def _is_below(path: str, wanted: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in wanted)
