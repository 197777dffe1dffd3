"""Releases that can be started as they are, and what may serve instead of one that cannot."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from runqy_agent.deployment.files import remove_tree
from runqy_agent.deployment.git import repository_name
from runqy_agent.deployment.holds import hold
from runqy_agent.deployment.refusals import Refusals
from runqy_agent.deployment.release import Release
from runqy_agent.deployment.releases import ReleaseStore, environments_in_use, environments_needed, every_release
from runqy_agent.deployment.source import parse_location
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runqy_agent.deployment.environment import EnvironmentStore
    from runqy_agent.deployment.releases import ReleaseRecord, StoredRelease
    from runqy_agent.deployment.source import Source

log = logging.getLogger(__name__)


class UsableReleases:
    """The releases of a deployment directory whose environments are there."""

    def __init__(self, root: Path, environments: EnvironmentStore) -> None:
        self._root = root
        self._environments = environments

    def standing(self, queue: str, source: Source) -> Release | None:
        """What can serve when new code cannot: the current release, else the previous, else the newest usable one.

        It is of the same repository, but maybe of another branch or path. Like ``prepare``, this holds it.
        """
        try:
            git_url = parse_location(source.git_url).url
        except GitError:
            return None
        return self._standing(queue, lambda record: record.git_url == git_url)

    def stand_in(self, queue: str, source: Source, reason: GitError) -> Release:
        """The release of the very same source, where the repository cannot be read; else raises ``reason``."""

        def is_same(record: ReleaseRecord) -> bool:
            asked = (source.git_url, source.branch, source.code_path)
            return (record.git_url, record.branch, record.code_path) == asked

        release = self._standing(queue, is_same)
        if release is None:
            raise reason
        log.warning("starting the queue %s with commit %s, maybe stale: %s", queue, release.commit[:12], reason)
        wanted = "" if reason.commit == release.commit else reason.commit
        return replace(release, stale=True, stale_reason=str(reason), wanted=wanted)

    def _standing(self, queue: str, is_fit: Callable[[ReleaseRecord], bool]) -> Release | None:
        store = ReleaseStore(self._root, queue)
        try:
            linked = [release for release in (store.current(), store.previous()) if release]
            refused = {refusal.release for refusal in Refusals(store.home).all()}
            others = [release for release in store.all() if release.record.name not in refused]
            for stored in (*linked, *others):
                if is_fit(stored.record) and (release := self.hold(queue, stored, stored.record.branch)):
                    return release
        except OSError as failed:
            log.warning("no earlier release of the queue %s can be found: %s", queue, failed)
        return None

    def hold(self, queue: str, stored: StoredRelease, branch: str) -> Release | None:
        """A release, held; None if it cannot be used (any more)."""
        held = hold(stored.path)
        if held is None:
            return None
        record = stored.record
        if not self.is_usable(record):  # looked at only now: what is held keeps its environment
            held.close()
            return None
        environment = self._environments.path(record.environment_name)
        return Release(
            queue=queue,
            commit=record.commit,
            branch=branch,
            root=stored.code,
            code_dir=stored.code / record.code_path,
            code_path=record.code_path,
            environment=environment,
            python=environment / "bin" / "python",
            hold=held,
        )

    def is_usable(self, record: ReleaseRecord) -> bool:
        """Whether the environment of a release is there."""
        return self._environments.is_usable(record.environment_name)

    def may_build(self, name: str) -> bool:
        """Whether an environment is there, or may be built in its place, since nothing runs in it."""
        return self._environments.is_usable(name) or name not in environments_in_use(self._root)

    def environment_name(self, key: str, *, fresh: bool) -> str:
        """The name of the environment that a new release gets; one that nothing has if it is to be ``fresh``."""
        name = self._environments.name_for(key)
        return self._environments.new_name(key) if fresh or not self.may_build(name) else name

    def prune(self, store: ReleaseStore, keep: int) -> None:
        """Remove what is too old, and environments and copies of repositories that none needs. Needs the lock."""
        store.prune(keep, self.is_usable)
        self._environments.prune(environments_needed(self._root))
        repositories = {repository_name(record.git_url) for record in every_release(self._root)}
        for path in (self._root / "repositories").glob("*"):
            if path.name not in repositories:
                remove_tree(path)
