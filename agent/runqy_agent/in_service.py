"""The code of each parent queue in service, and how going over to new code goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runqy_agent.deployment import Release
    from runqy_agent.process.runner import ProcessRunner
    from runqy_agent.registration import Registration


@dataclass(frozen=True)
class Result:
    """What a redeployment came to for one parent queue.

    Attributes:
        outcome: ``switched``, ``unchanged`` or ``failed``.
        commit: which one serves now.
        reason: why it is not another one; "" if nothing is wrong.
    """

    outcome: str
    commit: str
    reason: str = ""


@dataclass
class Service:
    """The code of one parent queue in service.

    Attributes:
        registration: the server's word that its code follows.
        release: what serves.
        fingerprint: of how it is started.
        runner: its processes.
        answer: the server's last word. Its sub-queues are served, also while its code is not.
    """

    registration: Registration
    release: Release
    fingerprint: str
    runner: ProcessRunner
    answer: Registration

    @property
    def name(self) -> str:
        """The parent queue."""
        return self.registration.queue.name

    def adopt(self, release: Release, wanted: str = "", reason: str = "") -> None:
        """Note what serves, and whether it is not what should."""
        self.release = release
        health = self.runner.health
        health.commit = release.commit
        self.note(wanted or release.wanted, reason or release.stale_reason)

    def note(self, wanted: str, reason: str) -> None:
        """Note why what serves is not what should; an empty reason takes that back."""
        health = self.runner.health
        health.stale, health.stale_reason = bool(reason), reason
        health.wanted = wanted if reason else ""


@dataclass
class Progress:
    """How redeploying goes, for the status.

    Attributes:
        number: how many have been begun.
        running: whether one is under way.
        at: when the last one ended, monotonic seconds; 0 before that.
        results: of the last one, by parent queue.
        restart: what it has found changed that only a restart of the worker brings into effect; one text for each.
    """

    number: int = 0
    running: bool = False
    at: float = 0.0
    results: dict[str, Result] = field(default_factory=dict)
    restart: list[str] = field(default_factory=list)
