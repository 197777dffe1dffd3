"""A release that was there already may be damaged, by the author's own process: it is built afresh, once."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from runqy_agent.deployment import Source
from runqy_agent.errors import DeploymentError, ProcessNotReadyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runqy_agent.deployment import Deployer, Release
    from runqy_agent.redaction import Redactor
    from runqy_agent.registration import Registration

log = logging.getLogger(__name__)


class Repair:
    """Starts releases, and repairs those that were there already and do not become ready."""

    def __init__(
        self, deployer: Deployer, redactor: Redactor, variables: Callable[[Registration], dict[str, str]]
    ) -> None:
        self._deployer = deployer
        self._variables = variables
        self._redactor = redactor

    async def start(
        self,
        registration: Registration,
        release: Release,
        fingerprint: str,
        start: Callable[[Release], Awaitable[None]],
    ) -> Release:
        """Start a release; if it was there already and does not become ready, one that is built afresh.

        What does not become ready then is remembered over restarts: it is not built again.

        Args:
            registration: the server's word on its queue.
            release: what to start.
            fingerprint: tells how it is started.
            start: starts a release.

        Returns:
            The release that has become ready.

        Raises:
            ProcessNotReadyError: none did, or it cannot be built, which another start may try again.
        """
        try:
            await start(release)
        except ProcessNotReadyError as error:
            if not release.reused or self._deployer.refusal(release, fingerprint):
                self._refuse(release, fingerprint, error)
                raise
            fresh = await self._build(registration, release, error)
        else:
            return release
        try:
            await start(fresh)
        except ProcessNotReadyError as error:
            self._refuse(fresh, fingerprint, error)
            raise
        return fresh

    async def _build(self, registration: Registration, release: Release, error: ProcessNotReadyError) -> Release:
        queue = registration.queue.name
        text = "queue %s: commit %s was here already and does not become ready, so it is built afresh: %s"
        reason = self._redactor.redact(str(error))
        log.warning(text, queue, release.commit[:12], reason, extra={"queue": queue})
        try:
            source, token = source_of(registration), registration.git_token
            variables = self._variables(registration)
            fresh = await self._deployer.rebuild(release, source, git_token=token, variables=variables)
        except DeploymentError as failed:
            raise ProcessNotReadyError(f"{error}\nand it cannot be built afresh: {failed}") from failed
        return replace(fresh, stale=release.stale, stale_reason=release.stale_reason, wanted=release.wanted)

    def _refuse(self, release: Release, fingerprint: str, error: ProcessNotReadyError) -> None:
        self._deployer.refuse(release, fingerprint, self._redactor.redact(str(error)))


def source_of(registration: Registration) -> Source:
    """What the server wants deployed."""
    deployment = registration.deployment
    return Source(deployment.git_url, deployment.branch, deployment.code_path, deployment.requirements_file)
