"""Removing what a crash left in a deployment directory: half of a release, of an environment, of a git command."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from runqy_agent.deployment.environment import EnvironmentStore
from runqy_agent.deployment.files import locked_if_free, remove_leftovers, remove_tree
from runqy_agent.deployment.git import remove_stale_locks
from runqy_agent.deployment.holds import unless_held
from runqy_agent.deployment.releases import environments_in_use, is_whole, release_directories

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


def clean_up_if_free(root: Path) -> None:
    """Clean up, unless somebody holds the lock: then that one has seen to it. What cannot be removed is a warning."""
    try:
        with locked_if_free(root / ".lock") as free:
            if free:
                clean_up(root)
    except OSError as failed:
        log.warning("what an earlier deployment left in %s cannot be removed: %s", root, failed)


def clean_up(root: Path) -> None:
    """Clean up. Needs the lock: nothing that is unfinished then belongs to anybody alive."""
    for directory in (root / "environments", root / "repositories", root / "tools"):
        remove_leftovers(directory)
    for home in root.glob("queues/*"):
        remove_leftovers(home)
        remove_leftovers(home / "releases")
    for path in list(release_directories(root)):
        if not is_whole(path):
            with unless_held(path) as free:
                if free:
                    log.info("removing the release %s, which is not whole", path.name)
                    remove_tree(path)
    for directory in (root / "environments", root / "tools"):
        EnvironmentStore(directory).remove_interrupted(lambda: environments_in_use(root))
    for repository in root.glob("repositories/*"):
        remove_stale_locks(repository)
