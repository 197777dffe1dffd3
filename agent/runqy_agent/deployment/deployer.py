"""From a source to a release that can be started: fetch, plan, build; then switch to it and tidy up."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from runqy_agent.deployment.bounds import Bounds
from runqy_agent.deployment.cleaning import clean_up, clean_up_if_free
from runqy_agent.deployment.dependencies import Selection, find_dependencies
from runqy_agent.deployment.environment import EnvironmentStore, build_environment, plan_environment
from runqy_agent.deployment.files import explain, locked, remove_tree
from runqy_agent.deployment.git import MissingRefError, Repository, Resolved, UnreachableError, repository_name
from runqy_agent.deployment.git_access import NO_REDIRECTS, prepare_access
from runqy_agent.deployment.holds import hold
from runqy_agent.deployment.in_flight import InFlight
from runqy_agent.deployment.interpreter import find_python
from runqy_agent.deployment.refusals import Refusals
from runqy_agent.deployment.releases import ReleaseRecord, ReleaseStore, StoredRelease, every_release
from runqy_agent.deployment.source import Source, check_branch, check_code_path, is_full_commit, parse_location
from runqy_agent.deployment.staging import check_out
from runqy_agent.deployment.submodules import Submodules
from runqy_agent.deployment.tools import Tools
from runqy_agent.deployment.usable import UsableReleases
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.interpreter import Interpreter
    from runqy_agent.deployment.release import Release
    from runqy_agent.deployment.source import Location

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Order:
    """One deployment: the queue, the source, and what both came to today."""

    queue: str
    source: Source
    resolved: Resolved
    interpreter: Interpreter
    variables: Mapping[str, str] = field(repr=False)
    git_token: Secret | None = None

    @property
    def commit(self) -> str:
        """The commit asked for, in full, if that is known before it is fetched."""
        return self.resolved.commit if is_full_commit(self.resolved.commit) else ""


class Deployer:
    """Deploys task code into one deployment directory, which agents and queues may share.

    Args:
        settings: the directory, the interpreter and how environments are built.
        git: access to repositories.
    """

    def __init__(self, settings: DeploymentSettings, git: GitSettings) -> None:
        self._settings = settings
        self._git = git
        self._bounds = Bounds(settings)
        self._root = Path(settings.dir).expanduser().resolve()
        self._environments = EnvironmentStore(self._root / "environments")
        self._usable = UsableReleases(self._root, self._environments)
        self._tools = Tools(self._root / "tools")
        self._asking: InFlight[Resolved] = InFlight()
        self._cleaned = False

    async def prepare(
        self,
        queue: str,
        source: Source,
        *,
        git_token: Secret | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Release:
        """Fetch and build what ``source`` stands for now, doing only what is not done yet.

        The release can be started, but is the queue's current one only after ``activate``. If nothing has changed, all
        this is one ``git ls-remote`` (none for a full commit id) and one question to the interpreter. If the repository
        cannot be reached, or the branch is there no more, and a release of the same source exists, that one is returned
        with ``stale`` set.

        Args:
            queue: the parent queue's name.
            source: what to deploy.
            git_token: the server's token for the repository, used for http(s) alone, when neither the settings nor
                the URL hold one.
            variables: what builds find in their environment besides, and ``${NAME}`` in requirements stands for.

        Returns:
            The release. Nobody removes it before it is let go.

        Raises:
            NotAllowedError: the operator does not allow the repository.
            GitError: the source is malformed or does not exist, or cannot be fetched and no release can stand in.
            EnvironmentBuildError: there is no fit interpreter, or the dependencies cannot be installed.
            DeploymentError: the deployment directory cannot be used.
        """
        self._bounds.check_repository(source.git_url)
        location = parse_location(source.git_url)
        code_path = check_code_path(source.code_path)
        source = Source(location.url, check_branch(source.branch), code_path, source.requirements_file)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            repository = self._open(location, git_token, self._git)
            key = (location.url, source.branch, repository.secrets)
            asking = self._asking.ask(key, lambda: repository.resolve(source.branch))
            # No answer depends on another, and the network is the slowest.
            interpreter, resolved, _ = await asyncio.gather(
                find_python(self._settings.python), asking, self._clean_up_once(), return_exceptions=True
            )
            if isinstance(interpreter, BaseException):
                raise interpreter
            if isinstance(resolved, UnreachableError | MissingRefError):
                return self._usable.stand_in(queue, source, resolved)
            if isinstance(resolved, BaseException):
                raise resolved
        except OSError as failed:
            raise explain(failed, self._root) from failed
        return await self._prepare(_Order(queue, source, resolved, interpreter, variables or {}, git_token), repository)

    def _open(self, location: Location, git_token: Secret | None, settings: GitSettings) -> Repository:
        access = prepare_access(location, settings, git_token, self._root)
        if self._bounds.of_repositories:
            access = replace(access, options=(*access.options, *NO_REDIRECTS))
        return Repository(self._root / "repositories" / repository_name(location.url), access)

    def _open_submodule(self, git_url: str, order: _Order) -> Repository:
        """Access to a submodule's repository. The token is for the host of the repository itself, and for no other."""
        self._bounds.check_repository(git_url)
        location = parse_location(git_url)
        if urlsplit(location.url)[:2] == urlsplit(order.source.git_url)[:2]:
            return self._open(location, order.git_token, self._git)
        without = msgspec.structs.replace(self._git, token=None, token_file="")
        return self._open(location, None, without)

    def standing(self, queue: str, source: Source) -> Release | None:
        """What can serve when new code cannot: see ``UsableReleases.standing``."""
        return self._usable.standing(queue, source)

    def let_go(self, release: Release) -> None:
        """Say that nothing runs from this release any more, so that it may be removed."""
        if release.hold is not None:
            release.hold.close()

    async def activate(self, release: Release) -> None:
        """Make a release the queue's current one, since it has become ready, and remove what is too old.

        Raises:
            DeploymentError: it is gone, or the deployment directory cannot be written.
        """
        store = ReleaseStore(self._root, release.queue)
        path = release.root.parent
        try:
            stored = store.at(path)
            if stored is None or not store.is_current(stored, release.branch):
                async with locked(self._root / ".lock"):
                    stored = store.at(path)
                    if stored is None:
                        raise DeploymentError(f"the release {path.name} of the queue {release.queue} is gone")
                    store.activate(stored, release.branch)
                    log.info("the release %s of the queue %s is current", path.name, release.queue)
                    await asyncio.to_thread(self._prune, store)
            Refusals(store.home).forget(path.name)
        except OSError as failed:
            raise explain(failed, self._root) from failed

    def refuse(self, release: Release, fingerprint: str, reason: str) -> None:
        """Remember that a release did not become ready, over restarts and until it is activated.

        Args:
            release: which one.
            fingerprint: tells how it was started.
            reason: why it failed, without secrets.
        """
        home = ReleaseStore(self._root, release.queue).home
        Refusals(home).add(release.root.parent.name, release.commit, fingerprint, reason)

    def refusal(self, release: Release, fingerprint: str) -> str:
        """Why this release was refused when it was started in this way; empty if it was not."""
        return Refusals(ReleaseStore(self._root, release.queue).home).reason(release.root.parent.name, fingerprint)

    async def _clean_up_once(self) -> None:
        if not self._cleaned:
            self._cleaned = True
            await asyncio.to_thread(clean_up_if_free, self._root)

    async def _prepare(self, order: _Order, repository: Repository) -> Release:
        """Find the release wanted, or make it. Every error says which commit that was."""
        store = ReleaseStore(self._root, order.queue)
        try:
            current = store.current()
            for stored in [*([current] if current else []), *store.all()]:
                if self._plan_of(stored, order) and (release := self._held(order, stored)):
                    return release
            async with locked(self._root / ".lock"):
                return await self._renew(order, store, repository)
        except (UnreachableError, MissingRefError) as unreadable:
            unreadable.commit = unreadable.commit or order.commit
            return self._usable.stand_in(order.queue, order.source, unreadable)
        except DeploymentError as failed:
            failed.commit = failed.commit or order.commit
            raise
        except OSError as failed:
            error = explain(failed, self._root)
            error.commit = order.commit
            raise error from failed

    async def _renew(self, order: _Order, store: ReleaseStore, repository: Repository) -> Release:
        """Find or make the release wanted, and build its environment. Needs the lock."""
        await asyncio.to_thread(clean_up, self._root)
        candidates = ((stored, self._plan_of(stored, order)) for stored in store.all())
        found = next(((stored, plan) for stored, plan in candidates if plan), None)
        held = hold(found[0].path) if found else None
        # Also here, since code that never becomes ready is never activated, and must not fill the disk.
        await asyncio.to_thread(self._prune, store)
        stored, plan = found or await self._make(order, store, repository)
        try:
            await self._build(order, plan)
        except DeploymentError as failed:
            failed.commit = stored.record.commit
            raise
        release = self._held(order, stored)
        if held is not None:
            held.close()
        if release is None:
            raise DeploymentError(f"the release {stored.path.name} of the queue {order.queue} vanished; try again")
        return release

    async def _build(self, order: _Order, plan: EnvironmentPlan) -> None:
        for note in plan.dependencies.notes:
            log.warning("queue %s: %s", order.queue, note)
        if not self._environments.is_usable(plan.key):
            recipe = await self._tools.recipe(plan)
            await build_environment(plan, self._environments.path(plan.key), recipe)

    async def _make(
        self, order: _Order, store: ReleaseStore, repository: Repository
    ) -> tuple[StoredRelease, EnvironmentPlan]:
        source = order.source
        log.info("fetching %s of %s", source.branch, source.git_url)
        staging = await asyncio.to_thread(store.stage)

        def plan_staged(commit: str) -> EnvironmentPlan:
            return self._plan(staging / "code", commit, order)

        submodules = None
        if self._settings.submodules:
            submodules = Submodules(repository, lambda url: self._open_submodule(url, order), staging)
        try:
            commit, plan = await check_out(
                repository, order.resolved, staging, source.code_path, plan_staged, submodules=submodules
            )
            record = ReleaseRecord(commit, source.branch, source.git_url, source.code_path, plan.key, time.time())
            stored = await asyncio.to_thread(store.publish, staging, record)
        except BaseException:
            await asyncio.to_thread(remove_tree, staging)
            raise
        return stored, self._plan(stored.code, commit, order)

    def _plan(self, code: Path, commit: str, order: _Order) -> EnvironmentPlan:
        settings, source = self._settings, order.source
        chosen = Selection(tuple(settings.extras), tuple(settings.groups), source.requirements_file, order.variables)
        dependencies = find_dependencies(code, source.code_path, order.interpreter.version, chosen)
        if settings.submodules and (code / ".gitmodules").is_file():
            dependencies = replace(dependencies, inputs=dependencies.inputs | {"submodules": "checked out"})
        origin = f"{order.queue} {commit} {source.code_path}"  # as many as there are releases
        return plan_environment(
            settings, order.interpreter, dependencies, origin, commit=commit, variables=order.variables
        )

    def _plan_of(self, stored: StoredRelease, order: _Order) -> EnvironmentPlan | None:
        """The plan of a release's environment, if the release is what is asked for."""
        record, source = stored.record, order.source
        if (record.git_url, record.code_path) != (source.git_url, source.code_path):
            return None
        if not order.resolved.matches(record.commit):
            return None
        plan = self._plan(stored.code, record.commit, order)
        return plan if plan.key == record.environment else None

    def _held(self, order: _Order, stored: StoredRelease) -> Release | None:
        return self._usable.hold(order.queue, stored, order.source.branch)

    def _prune(self, store: ReleaseStore) -> None:
        store.prune(self._settings.keep_releases, self._usable.is_usable)
        left = list(every_release(self._root))
        self._environments.prune(record.environment for record in left)
        repositories = {repository_name(record.git_url) for record in left}
        for path in (self._root / "repositories").glob("*"):
            if path.name not in repositories:
                remove_tree(path)
