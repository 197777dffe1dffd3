"""From a source to a release that can be started: fetch, plan, build, switch, tidy up."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent.deployment.dependencies import find_dependencies
from runqy_agent.deployment.environment import EnvironmentStore, plan_environment
from runqy_agent.deployment.files import explain, locked, remove_tree
from runqy_agent.deployment.git import Repository, Resolved, UnreachableError
from runqy_agent.deployment.git_access import prepare_access
from runqy_agent.deployment.interpreter import find_python
from runqy_agent.deployment.releases import (
    ReleaseRecord,
    ReleaseStore,
    StoredRelease,
    every_release,
    remove_interrupted,
)
from runqy_agent.deployment.source import Source, check_branch, check_code_path, parse_location
from runqy_agent.deployment.staging import check_out
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.interpreter import Interpreter

log = logging.getLogger(__name__)


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
        stale: whether it may be out of date, because the repository could not be reached.
        stale_reason: why, without secrets.
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


@dataclass(frozen=True)
class _Order:
    """One deployment: the queue, the source, and what both came to today."""

    queue: str
    source: Source
    resolved: Resolved
    interpreter: Interpreter


class Deployer:
    """Deploys task code into one deployment directory, which agents and queues may share.

    Args:
        settings: the directory, the interpreter and how environments are built.
        git: access to repositories.
    """

    def __init__(self, settings: DeploymentSettings, git: GitSettings) -> None:
        self._settings = settings
        self._git = git
        self._root = Path(settings.dir).expanduser().resolve()
        self._environments = EnvironmentStore(self._root / "environments")

    async def deploy(self, queue: str, source: Source, *, git_token: Secret | None = None) -> Release:
        """Make the release that ``source`` stands for now the queue's current one, doing only what is not done yet.

        If nothing has changed, that is one ``git ls-remote`` (none for a full commit id) and one question to the
        interpreter. If the repository cannot be reached and a release of the same source exists, that one is returned
        with ``stale`` set.

        Args:
            queue: the parent queue's name.
            source: what to deploy.
            git_token: the server's token for the repository, used for http(s) alone, when neither the settings nor
                the URL hold one.

        Raises:
            GitError: the source is malformed or does not exist, or cannot be fetched and no release can stand in.
            EnvironmentBuildError: there is no fit interpreter, or the dependencies cannot be installed.
            DeploymentError: the deployment directory cannot be used.
        """
        location = parse_location(source.git_url)
        source = Source(location.url, check_branch(source.branch), check_code_path(source.code_path))
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            access = prepare_access(location, self._git, git_token, self._root)
            repository = Repository(self._root / "repositories" / _repository_name(location.url), access)
            return await self._deploy(queue, source, repository)
        except OSError as failed:
            raise explain(failed, self._root) from failed

    def previous(self, queue: str) -> Release | None:
        """The release that was current before the present one, if it can still be started."""
        stored = ReleaseStore(self._root, queue).previous()
        return self._release(queue, stored) if stored and self._is_usable(stored.record) else None

    async def activate(self, release: Release) -> None:
        """Make a release that ``deploy`` or ``previous`` returned the queue's current one (again).

        Raises:
            DeploymentError: it is gone, or the deployment directory cannot be written.
        """
        store = ReleaseStore(self._root, release.queue)
        try:
            async with locked(self._root / ".lock"):
                for stored in store.all():
                    if stored.code == release.root:
                        store.activate(stored, stored.record.branch, stored.record.git_url)
                        return
        except OSError as failed:
            raise explain(failed, self._root) from failed
        raise DeploymentError(f"the release {release.root.parent.name} of the queue {release.queue} is gone")

    async def _deploy(self, queue: str, source: Source, repository: Repository) -> Release:
        store = ReleaseStore(self._root, queue)
        # Neither answer depends on the other, and the network is the slower one.
        interpreter, resolved = await asyncio.gather(
            find_python(self._settings.python), repository.resolve(source.branch), return_exceptions=True
        )
        if isinstance(interpreter, BaseException):
            raise interpreter
        try:
            if isinstance(resolved, BaseException):
                raise resolved
            order = _Order(queue, source, resolved, interpreter)
            current = store.current()
            if current and current.record.branch == source.branch and self._plan_of(current, order):
                if self._is_usable(current.record):
                    return self._release(queue, current)
                log.warning("the environment of the queue %s is gone or not whole: it is built again", queue)
            async with locked(self._root / ".lock"):
                return await self._renew(order, store, repository)
        except UnreachableError as unreachable:
            return self._stand_in(queue, source, store, unreachable)

    async def _renew(self, order: _Order, store: ReleaseStore, repository: Repository) -> Release:
        """Find or make the release wanted, build its environment and switch to it. Needs the lock."""
        await asyncio.to_thread(remove_interrupted, self._root)
        candidates = ((stored, self._plan_of(stored, order)) for stored in store.all())
        found = next(((stored, plan) for stored, plan in candidates if plan), None)
        stored, plan = found or await self._make(order, store, repository)
        for note in plan.dependencies.notes:
            log.warning("queue %s: %s", order.queue, note)
        await self._environments.ensure(plan)
        stored = store.activate(stored, order.source.branch, order.source.git_url)
        log.info("the release %s of the queue %s is current", stored.path.name, order.queue)
        await asyncio.to_thread(self._prune, store)
        return self._release(order.queue, stored)

    async def _make(
        self, order: _Order, store: ReleaseStore, repository: Repository
    ) -> tuple[StoredRelease, EnvironmentPlan]:
        source = order.source
        log.info("fetching %s of %s", source.branch, source.git_url)
        staging = await asyncio.to_thread(store.stage)

        def plan_staged(commit: str) -> EnvironmentPlan:
            return self._plan(staging / "code", commit, order)

        try:
            commit, plan = await check_out(repository, order.resolved, staging, source.code_path, plan_staged)
            record = ReleaseRecord(commit, source.branch, source.git_url, source.code_path, plan.key, time.time())
            stored = await asyncio.to_thread(store.publish, staging, record)
        except BaseException:
            await asyncio.to_thread(remove_tree, staging)
            raise
        return stored, self._plan(stored.code, commit, order)

    def _plan(self, code: Path, commit: str, order: _Order) -> EnvironmentPlan:
        dependencies = find_dependencies(code, order.source.code_path, order.interpreter.version)
        return plan_environment(self._settings, order.interpreter, dependencies, origin=f"{order.queue} {commit}")

    def _plan_of(self, stored: StoredRelease, order: _Order) -> EnvironmentPlan | None:
        """The plan of a release's environment, if the release is what is asked for."""
        record, source = stored.record, order.source
        if (record.git_url, record.code_path) != (source.git_url, source.code_path):
            return None
        if not order.resolved.matches(record.commit):
            return None
        plan = self._plan(stored.code, record.commit, order)
        return plan if plan.key == record.environment else None

    def _stand_in(self, queue: str, source: Source, store: ReleaseStore, reason: UnreachableError) -> Release:
        current = store.current()
        for stored in [*([current] if current else []), *store.all()]:
            record = stored.record
            same = (record.git_url, record.branch, record.code_path) == (
                source.git_url,
                source.branch,
                source.code_path,
            )
            if same and self._is_usable(record):
                log.warning("starting the queue %s with commit %s, maybe stale: %s", queue, record.commit[:12], reason)
                return self._release(queue, stored, stale_reason=str(reason))
        raise reason

    def _is_usable(self, record: ReleaseRecord) -> bool:
        return self._environments.is_usable(record.environment)

    def _prune(self, store: ReleaseStore) -> None:
        store.prune(self._settings.keep_releases, self._is_usable)
        left = list(every_release(self._root))
        self._environments.prune(record.environment for record in left)
        repositories = {_repository_name(record.git_url) for record in left}
        for path in (self._root / "repositories").glob("*"):
            if path.name not in repositories:
                remove_tree(path)

    def _release(self, queue: str, stored: StoredRelease, *, stale_reason: str = "") -> Release:
        environment = self._environments.path(stored.record.environment)
        return Release(
            queue=queue,
            commit=stored.record.commit,
            branch=stored.record.branch,
            root=stored.code,
            code_dir=stored.code / stored.record.code_path,
            environment=environment,
            python=environment / "bin" / "python",
            stale=bool(stale_reason),
            stale_reason=stale_reason,
        )


def _repository_name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:20]
