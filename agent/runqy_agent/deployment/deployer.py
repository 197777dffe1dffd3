"""From a source to a release that can be started: fetch, plan, build; then switch to it and tidy up."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from runqy_agent.deployment.bounds import Bounds
from runqy_agent.deployment.cleaning import clean_up, clean_up_if_free
from runqy_agent.deployment.environment import EnvironmentStore, build_environment
from runqy_agent.deployment.files import explain, locked, remove_tree
from runqy_agent.deployment.git import MissingRefError, Repository, Resolved, UnreachableError, repository_name
from runqy_agent.deployment.git_access import NO_REDIRECTS, prepare_access
from runqy_agent.deployment.holds import hold
from runqy_agent.deployment.in_flight import InFlight
from runqy_agent.deployment.interpreter import find_python
from runqy_agent.deployment.order import Order
from runqy_agent.deployment.refusals import Refusals
from runqy_agent.deployment.releases import (
    ReleaseRecord,
    ReleaseStore,
    StoredRelease,
)
from runqy_agent.deployment.source import Source, check_branch, check_code_path, parse_location
from runqy_agent.deployment.staging import check_out
from runqy_agent.deployment.submodules import Submodules
from runqy_agent.deployment.tools import Tools
from runqy_agent.deployment.usable import UsableReleases
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.release import Release
    from runqy_agent.deployment.source import Location

log = logging.getLogger(__name__)


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
        return await self._prepare(
            Order(self._settings, queue, source, resolved, interpreter, variables or {}, git_token), repository
        )

    def _open(self, location: Location, git_token: Secret | None, settings: GitSettings) -> Repository:
        access = prepare_access(location, settings, git_token, self._root)
        if self._bounds.of_repositories:
            access = replace(access, options=(*access.options, *NO_REDIRECTS))
        return Repository(self._root / "repositories" / repository_name(location.url), access)

    def _open_submodule(self, git_url: str, order: Order) -> Repository:
        """Access to a submodule's repository. The token is for the host of the repository itself, and for no other."""
        self._bounds.check_repository(git_url)
        location = parse_location(git_url)
        if urlsplit(location.url)[:2] == urlsplit(order.source.git_url)[:2]:
            return self._open(location, order.git_token, self._git)
        without = msgspec.structs.replace(self._git, token=None, token_file="")
        return self._open(location, None, without)

    async def rebuild(
        self,
        release: Release,
        source: Source,
        *,
        git_token: Secret | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Release:
        """Build a release afresh, beside the one there is, from which nothing is started any more.

        Args:
            release: did not become ready though it was there already; it is let go.
            source: where its repository is.
            git_token: as for ``prepare``.
            variables: as for ``prepare``.

        Returns:
            The new one, held.

        Raises:
            DeploymentError: it cannot be built; the old one stays.
        """
        self.let_go(release)
        location = parse_location(source.git_url)
        try:
            repository = self._open(location, git_token, self._git)
            interpreter = await find_python(self._settings.python)
            source = Source(location.url, release.branch, release.code_path, source.requirements_file)
            resolved = Resolved(release.commit)
            order = Order(self._settings, release.queue, source, resolved, interpreter, variables or {}, git_token)
            store = ReleaseStore(self._root, release.queue)
            async with locked(self._root / ".lock"):
                await asyncio.to_thread(clean_up, self._root)
                stored, plan = await self._make(order, store, repository, fresh=True)
                await self._build(order, plan, stored.record.environment_name)
                await asyncio.to_thread(store.supersede, stored)
                held = self._held(order, stored, reused=False)
        except OSError as failed:
            raise explain(failed, self._root) from failed
        if held is None:
            raise DeploymentError(f"the release {stored.path.name} of the queue {order.queue} vanished; try again")
        return held

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
                    await asyncio.to_thread(self._usable.prune, store, self._settings.keep_releases)
            Refusals(store.home).forget(release.name)
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
        Refusals(home).add(release.name, release.commit, fingerprint, reason)

    def refusal(self, release: Release, fingerprint: str) -> str:
        """Why this release was refused when it was started in this way; empty if it was not."""
        return Refusals(ReleaseStore(self._root, release.queue).home).reason(release.name, fingerprint)

    async def _clean_up_once(self) -> None:
        if not self._cleaned:
            self._cleaned = True
            await asyncio.to_thread(clean_up_if_free, self._root)

    async def _prepare(self, order: Order, repository: Repository) -> Release:
        """Find the release wanted, or make it. Every error says which commit that was."""
        store = ReleaseStore(self._root, order.queue)
        try:
            current = store.current()
            for stored in [*([current] if current else []), *store.all()]:
                if order.plan_of(stored) and (release := self._held(order, stored)):
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

    async def _renew(self, order: Order, store: ReleaseStore, repository: Repository) -> Release:
        """Find or make the release wanted, and build its environment. Needs the lock."""
        await asyncio.to_thread(clean_up, self._root)
        candidates = [stored for stored in store.all() if self._usable.may_build(stored.record.environment_name)]
        found = next(((stored, plan) for stored in candidates if (plan := order.plan_of(stored))), None)
        held = hold(found[0].path) if found else None
        # Also here, since code that never becomes ready is never activated, and must not fill the disk.
        await asyncio.to_thread(self._usable.prune, store, self._settings.keep_releases)
        stored, plan = found or await self._make(order, store, repository)
        try:
            await self._build(order, plan, stored.record.environment_name)
        except DeploymentError as failed:
            failed.commit = stored.record.commit
            raise
        await asyncio.to_thread(store.supersede, stored)
        release = self._held(order, stored, reused=found is not None)
        if held is not None:
            held.close()
        if release is None:
            raise DeploymentError(f"the release {stored.path.name} of the queue {order.queue} vanished; try again")
        return release

    async def _build(self, order: Order, plan: EnvironmentPlan, name: str) -> None:
        for note in plan.dependencies.notes:
            log.warning("queue %s: %s", order.queue, note)
        if not self._environments.is_usable(name):
            recipe = await self._tools.recipe(plan)
            await build_environment(plan, self._environments.path(name), recipe)

    async def _make(
        self, order: Order, store: ReleaseStore, repository: Repository, *, fresh: bool = False
    ) -> tuple[StoredRelease, EnvironmentPlan]:
        """Fetch a release and give it an environment's name; one that nothing has if it is to be ``fresh``."""
        source = order.source
        log.info("fetching %s of %s", source.branch, source.git_url)
        staging = await asyncio.to_thread(store.stage)

        def plan_staged(commit: str) -> EnvironmentPlan:
            return order.plan(staging / "code", commit)

        submodules = None
        if self._settings.submodules:
            submodules = Submodules(repository, lambda url: self._open_submodule(url, order), staging)
        try:
            commit, plan = await check_out(
                repository, order.resolved, staging, source.code_path, plan_staged, submodules=submodules
            )
            name = self._usable.environment_name(plan.key, fresh=fresh)
            record = ReleaseRecord(commit, source.branch, source.git_url, source.code_path, plan.key, time.time(), name)
            stored = await asyncio.to_thread(store.publish, staging, record)
        except BaseException:
            await asyncio.to_thread(remove_tree, staging)
            raise
        return stored, order.plan(stored.code, commit)

    def _held(self, order: Order, stored: StoredRelease, *, reused: bool = True) -> Release | None:
        held = self._usable.hold(order.queue, stored, order.source.branch)
        return replace(held, reused=reused) if held else None
