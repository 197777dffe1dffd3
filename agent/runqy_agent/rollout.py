"""Brings the task author's code into service: at the start, and again when it has changed.

What became ready last is the current release. New code that cannot be fetched, built or started leaves it in service,
and the worker says so: it is *stale*.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from runqy_agent.deployment import Bounds, Deployer, Release
from runqy_agent.errors import DeploymentError, ProcessNotReadyError, RunqyAgentError
from runqy_agent.in_service import Progress, Result, Service
from runqy_agent.launcher import Launcher
from runqy_agent.process.vault_names import refused_names
from runqy_agent.registration import register
from runqy_agent.repair import Repair, source_of
from runqy_agent.side_by_side import all_or_none

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any

    from runqy_agent.clock import Clock
    from runqy_agent.config import Config
    from runqy_agent.process.runner import ProcessRunner
    from runqy_agent.redaction import Redactor
    from runqy_agent.registration import Registration
    from runqy_agent.reporting.output import Output

log = logging.getLogger(__name__)


class Rollout:
    """Deploys, starts and replaces the code of all parent queues of a worker.

    Attributes:
        progress: of redeploying.
        on_change: called when a redeployment has begun or ended.
        follow: called with the server's newest answers, to serve the sub-queues they name; returns what only a restart
            brings into effect.
    """

    def __init__(self, config: Config, clock: Clock, redactor: Redactor, output: Output) -> None:
        self.progress = Progress()
        self.on_change: Callable[[], None] = lambda: None
        self.follow: Callable[[Sequence[Registration]], Awaitable[list[str]]]
        self._config = config
        self._clock = clock
        self._redactor = redactor
        self._deployer = Deployer(config.deployment, config.git)
        self._bounds = Bounds(config.deployment)
        self._services: list[Service] = []
        self._background: set[asyncio.Task[None]] = set()
        self._again = False
        self._launcher = Launcher(config, clock, redactor, output)
        self._repair = Repair(self._deployer, redactor, self._launcher.build_variables)

    # The start.

    async def prepare(self, registrations: Sequence[Registration]) -> dict[str, ProcessRunner]:
        """Fetch and build everything.

        Returns:
            By parent queue who will run its tasks; not started yet.

        Raises:
            NotAllowedError: the operator of this host does not allow what one of them asks for; nothing is fetched.
            DeploymentError: one of them cannot be deployed, and nothing of it can stand in.
        """
        for registration in registrations:
            self._check_bounds(registration)
        await self._launcher.look_for_gpus()
        services = [self._prepare(registration) for registration in registrations]
        self._services = await all_or_none(services)
        return {service.name: service.runner for service in self._services}

    def _check_bounds(self, registration: Registration) -> None:
        """Raise NotAllowedError unless the operator of this host allows what the server asks for."""
        deployment = registration.deployment
        self._bounds.check_repository(deployment.git_url)
        self._bounds.check_command(deployment.startup_cmd, deployment.env_vars, refused_names)

    async def _prepare(self, registration: Registration) -> Service:
        name = registration.queue.name
        for refused in refused_names(registration.vaults):
            log.warning(
                "queue %s: the vault value %s is not set: it would change how programs are loaded", name, refused
            )
        source = source_of(registration)
        wanted = reason = ""
        try:
            release = await self._obtain(registration)
        except DeploymentError as error:
            standing = self._deployer.standing(name, source)
            if standing is None:
                raise
            release, wanted, reason = standing, error.commit, self._redactor.redact(str(error))
            self._tell(name, wanted, release, reason)
        log.info("queue %s: commit %s in %s", name, release.commit[:12], release.code_dir)
        launcher = self._launcher
        runner = launcher.make_runner(registration)
        service = Service(registration, release, launcher.fingerprint(registration), runner, registration)
        service.adopt(release, wanted, reason)
        return service

    async def start(self) -> None:
        """Start the processes of all parent queues.

        Raises:
            ProcessNotReadyError: those of one did not become ready, nor those of the release before; all are stopped.
            DeploymentError: a start command makes no sense.
        """
        try:
            await all_or_none([self._start(service) for service in self._services])
        except BaseException:
            await asyncio.gather(*(service.runner.stop() for service in self._services), return_exceptions=True)
            raise

    async def _start(self, service: Service) -> None:
        wanted = service.release
        reason = self._deployer.refusal(wanted, service.fingerprint)
        stands_in = bool(reason) and self._stand_in(service, reason)
        if not stands_in:
            try:
                await self._run(service)
            except ProcessNotReadyError as error:
                reason = self._redactor.redact(str(error))
                stands_in = self._stand_in(service, reason)
                if not stands_in:
                    raise
        if stands_in:
            try:
                await self._run(service)
            except ProcessNotReadyError as second:
                raise ProcessNotReadyError(f"{reason}\nand the release before failed as well: {second}") from second
            self._deployer.let_go(wanted)
        await self._deployer.activate(service.release)

    async def _run(self, service: Service) -> None:
        """Start the processes."""

        async def start(release: Release) -> None:
            service.release = release
            service.runner.use(self._launcher.commands(service.registration, release))
            await service.runner.start()

        await self._repair.start(service.registration, service.release, service.fingerprint, start)

    def _stand_in(self, service: Service, reason: str) -> bool:
        """Let the release that was ready before serve instead. Returns whether there is one."""
        wanted = service.release
        standing = self._deployer.standing(service.name, source_of(service.registration))
        if standing is None or standing.root == wanted.root:
            return False
        self._tell(service.name, wanted.commit, standing, reason)
        service.adopt(standing, wanted.commit, reason)
        return True

    def _tell(self, name: str, wanted: str, standing: Release, reason: str) -> None:
        text = "queue %s: commit %s cannot serve, commit %s does instead: %s"
        log.error(text, name, wanted[:12] or "asked for", standing.commit[:12], reason, extra={"queue": name})

    # Later.

    def redeploy(self) -> None:
        """Ask the server and the repository again, and go over to what is new. Returns at once.

        Asked for while it is under way, it is done once more.
        """
        if self.progress.running:
            self._again = True
            return
        self.progress = Progress(self.progress.number + 1, running=True, restart=self.progress.restart)
        self._in_background(self._redeploy())
        self.on_change()

    async def _redeploy(self) -> None:
        # One after another: each may need as much memory again.
        results = {service.name: await self._renew(service) for service in self._services}
        restart, trouble = await self._follow()
        if trouble:
            results = {name: replace(result, outcome="failed", reason=trouble) for name, result in results.items()}
        for name, result in results.items():
            level = logging.ERROR if result.outcome == "failed" else logging.INFO
            why = f": {result.reason}" if result.reason else ""
            text = "redeploying queue %s: %s, commit %s serves%s"
            log.log(level, text, name, result.outcome, result.commit[:12], why, extra={"queue": name})
        for need in restart:
            log.warning("restart the worker to bring this into effect: %s", need)
        self.progress = Progress(self.progress.number, at=self._clock.monotonic(), results=results, restart=restart)
        self.on_change()
        if self._again:
            self._again = False
            self.redeploy()

    async def _renew(self, service: Service) -> Result:
        try:
            registration = await self._ask(service)
            return await self._change(service, registration)
        except RunqyAgentError as error:
            reason = self._redactor.redact(str(error))
            service.note(getattr(error, "commit", ""), reason)
        except Exception as error:
            log.exception("redeploying queue %s failed unexpectedly", service.name)
            reason = self._redactor.redact(repr(error))
            service.note("", reason)
        return Result("failed", service.release.commit, reason)

    async def _follow(self) -> tuple[list[str], str]:
        """Serve the sub-queues that the server names now. Returns what needs a restart, and what went wrong."""
        needs = [
            f"the mode of queue {service.name} is {service.answer.deployment.mode} now"
            for service in self._services
            if service.answer.deployment.mode != service.registration.deployment.mode
        ]
        try:
            needs += await self.follow([service.answer for service in self._services])
            return [self._redactor.redact(need) for need in needs], ""
        except RunqyAgentError as error:
            reason = str(error)
        except Exception as error:
            log.exception("the sub-queues cannot be changed")
            reason = repr(error)
        return needs, f"the sub-queues stay as they are: {self._redactor.redact(reason)}"

    async def _ask(self, service: Service) -> Registration:
        config = self._config
        [registration] = await register(config.server, config.bootstrap, [service.name])
        self._redactor.add(registration.secrets())
        if registration.queue.name != service.name:
            name = registration.queue.name
            raise DeploymentError(f"the server answers for another queue, {name}: restart the worker to serve that")
        service.answer = registration
        self._check_bounds(registration)
        mode = registration.deployment.mode
        if mode != service.registration.deployment.mode:
            raise DeploymentError(f"the mode is {mode} now: restart the worker to change it")
        return registration

    async def _change(self, service: Service, registration: Registration) -> Result:
        old = service.release
        release = await self._obtain(registration)
        fingerprint = self._launcher.fingerprint(registration)
        if release.root == old.root and fingerprint == service.fingerprint:
            service.adopt(release)
            return Result("failed" if release.stale else "unchanged", release.commit, release.stale_reason)
        reason = self._deployer.refusal(release, fingerprint)
        if reason:
            service.note(release.commit, reason)
            return Result("unchanged", old.commit, f"commit {release.commit[:12]} is not tried again: {reason}")

        async def start(release: Release) -> None:
            await service.runner.replace(self._launcher.commands(registration, release)[0])

        if release.root == old.root:  # it serves well, started in another way: it is not damaged
            release = replace(release, reused=False)
        try:
            release = await self._repair.start(registration, release, fingerprint, start)
        except ProcessNotReadyError as error:
            reason = self._redactor.redact(str(error))
            if release.root != old.root:
                self._deployer.let_go(release)
            service.note(release.commit, reason)
            return Result("failed", old.commit, reason)
        service.registration, service.fingerprint = registration, fingerprint
        service.adopt(release)
        if release.root != old.root:
            self._in_background(self._let_go_once_unused(service, old))
        await self._deployer.activate(release)
        return Result("switched", release.commit, release.stale_reason)

    async def _let_go_once_unused(self, service: Service, release: Release) -> None:
        await service.runner.settled()
        self._deployer.let_go(release)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _obtain(self, registration: Registration) -> Release:
        """Fetch and build what the server asks for."""
        return await self._deployer.prepare(
            registration.queue.name,
            source_of(registration),
            git_token=registration.git_token,
            variables=self._launcher.build_variables(registration),
        )

    async def stop(self) -> None:
        """Give up what is under way. The runners are not touched."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
