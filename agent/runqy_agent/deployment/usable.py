"""Releases that can be started as they are, and what may serve instead of one that cannot."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from runqy_agent.deployment.holds import hold
from runqy_agent.deployment.refusals import Refusals
from runqy_agent.deployment.release import Release
from runqy_agent.deployment.releases import ReleaseStore
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
            others = [release for release in store.all() if release.path.name not in refused]
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
        if not self.is_usable(stored.record):  # looked at only now: what is held keeps its environment
            held.close()
            return None
        environment = self._environments.path(stored.record.environment)
        return Release(
            queue=queue,
            commit=stored.record.commit,
            branch=branch,
            root=stored.code,
            code_dir=stored.code / stored.record.code_path,
            environment=environment,
            python=environment / "bin" / "python",
            hold=held,
        )

    def is_usable(self, record: ReleaseRecord) -> bool:
        """Whether the environment of a release is there."""
        return self._environments.is_usable(record.environment)
