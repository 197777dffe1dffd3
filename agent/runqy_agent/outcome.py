"""How the run of a task ended, in the words of whoever ran it."""

from __future__ import annotations

from msgspec import Struct


class Success(Struct, frozen=True, gc=False):
    """The task is done.

    Attributes:
        result: its result as JSON, or None if there is none.
    """

    result: bytes | None = None


class Failure(Struct, frozen=True, gc=False):
    """The task failed.

    Attributes:
        error: what went wrong, for people.
        retry: try again while retries remain; False archives the task at once.
        counted: whether this attempt uses up one of the task's retries.
        delay: seconds until the next attempt; None means by the worker's rule.
    """

    error: str
    retry: bool = True
    counted: bool = True
    delay: float | None = None


class Revoked(Struct, frozen=True, gc=False):
    """The handler gave the task up: it is neither tried again nor archived."""


class Unstarted(Struct, frozen=True, gc=False):
    """The task was not run, or nobody knows that it was; it goes back to the head of its queue, uncounted."""


Outcome = Success | Failure | Revoked | Unstarted


def failure_of(error: Exception) -> Failure:
    """What becomes of a task for which the worker itself, or a hook of its user, has raised."""
    return Failure(f"the worker could not handle this task: {type(error).__name__}: {error}", retry=False)
