"""From how a run ended to what is written in Redis: the rules of asynq for retries, archive and retention."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.broker.message import MOST_SECONDS, stand_in, stored_error
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, failure_of
from runqy_agent.retry_delays import exponential_retry_delay

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.retry_delays import RetryDelay

log = logging.getLogger(__name__)

LEASE_EXPIRED = "asynq: task lease expired"
"""asynq's own text for a task whose worker went away."""

NEVER = MOST_SECONDS
"""The score of a completed task that is kept for ever."""

LONGEST_DELAY = 366 * 24 * 3600
"""Seconds until the next attempt, at most: a task that waits for longer is as good as lost."""

LATE_SECONDS = 300
"""How long after it has enqueued a task the runqy server may still write fields of its own to the hash."""


@dataclass(slots=True)
class Settled:
    """A task whose fate is decided and not yet written. Deciding happens once, writing may take several tries.

    Attributes:
        task: the task, its message already brought up to date.
        step: the step of ``exchange.lua``.
        values: the five values of that step after id and held_until.
        in_doubt: it was sent once and no reply came; it may have been written.
    """

    task: TakenTask
    step: str
    values: tuple[bytes | str | int, ...]
    in_doubt: bool = False


@dataclass(frozen=True)
class Policy:
    """What the worker decides where a task's message does not.

    Attributes:
        max_retry: a ceiling for the retries of every task; None for none.
        ttl_completed: seconds a completed task is kept if its result is stored and the task says nothing; 0: for ever.
        ttl_archived: seconds an archived task is kept; 0: for ever.
        store_results: the server's ``redis_storage``.
        late_stamps: there is a runqy server, which writes fields to a task's hash a while after it has enqueued it.
        retry_delay: seconds before the next attempt, from retries used, error text and task.
    """

    max_retry: int | None = None
    ttl_completed: int = 24 * 3600
    ttl_archived: int = 72 * 3600
    store_results: bool = False
    late_stamps: bool = False
    retry_delay: RetryDelay = exponential_retry_delay

    def settle(self, task: TakenTask, outcome: Outcome, now_ns: int) -> Settled:
        """Decide what becomes of a task, and bring its message up to date.

        Args:
            task: the task; its message is changed in place.
            outcome: how its run ended.
            now_ns: unix nanoseconds.
        """
        now = now_ns // 1_000_000_000
        if isinstance(outcome, Success):
            return self._succeed(task, outcome, now)
        if isinstance(outcome, Failure):
            return self._fail(task, outcome, now)
        if isinstance(outcome, Revoked):
            return self._done(task, now)
        return Settled(task, "requeue", ("", now_ns, "", "", ""))

    def settle_safely(self, task: TakenTask, outcome: Outcome, now_ns: int) -> tuple[Settled, Outcome]:
        """Decide as ``settle`` does; where that raises, the task is archived with the reason.

        Returns:
            What is to be written, and the outcome that it stands for.
        """
        try:
            return self.settle(task, outcome, now_ns), outcome
        except Exception as error:
            log.exception("the outcome of task %s cannot be written", task.id)
            failure, now = failure_of(error), now_ns // 1_000_000_000
            task.message = stand_in(task.id, task.queue, task.message.payload)
            task.message.error_msg, task.message.last_failed_at = stored_error(failure.error), now
            ttl = _countable(self.ttl_archived, now)
            return Settled(task, "archive", (task.message.SerializeToString(), "", "", "", ttl)), failure

    def _succeed(self, task: TakenTask, outcome: Success, now: int) -> Settled:
        message = task.message
        ttl = task.ttl_completed
        if ttl is None:
            if message.retention > 0:
                ttl = message.retention
            elif self.store_results:
                ttl = self.ttl_completed
            else:
                return self._done(task, now)
        ttl = _countable(ttl, now)
        message.completed_at = now
        result = bytes(outcome.result or b"") if self.store_results else b""
        expires_at = now + ttl if ttl else NEVER
        values = (message.SerializeToString(), message.unique_key, expires_at, result, ttl)
        return Settled(task, "complete", values)

    def _fail(self, task: TakenTask, outcome: Failure, now: int) -> Settled:
        message = task.message
        allowed = message.retry if self.max_retry is None else min(message.retry, self.max_retry)
        message.error_msg = stored_error(outcome.error)
        message.last_failed_at = now
        if not outcome.retry or message.retried >= allowed:
            ttl = _countable(self.ttl_archived if task.ttl_archived is None else task.ttl_archived, now)
            return Settled(task, "archive", (message.SerializeToString(), "", "", "", ttl))
        due = now + self._delay(task, outcome)
        if outcome.counted:
            message.retried += 1
        return Settled(task, "retry", (message.SerializeToString(), due, "1" if outcome.counted else "", "", ""))

    def _delay(self, task: TakenTask, outcome: Failure) -> int:
        """Whole seconds until the next attempt. A rule that fails must not keep the outcome from being written."""
        retried = max(0, task.message.retried)
        try:
            delay = self.retry_delay(retried, outcome.error, task) if outcome.delay is None else outcome.delay
            return min(max(0, round(delay)), LONGEST_DELAY)
        except Exception:
            log.exception("the retry delay of task %s cannot be computed, using the default", task.id)
            return min(round(exponential_retry_delay(retried, outcome.error, task)), LONGEST_DELAY)

    def _done(self, task: TakenTask, now: int) -> Settled:
        """Let a task leave Redis. What the server may still write about it must find a hash that expires."""
        stamped = (task.ttl_completed, task.ttl_archived, task.pending_timeout, task.active_timeout) != (None,) * 4
        from_server = task.type == task.queue or task.queue.startswith((f"{task.type}.", f"{task.type}:"))
        recent = now - task.pending_since // 1_000_000_000 < LATE_SECONDS or not task.pending_since
        late = LATE_SECONDS if self.late_stamps and from_server and recent and not stamped else ""
        return Settled(task, "done", ("", task.message.unique_key, late, "", ""))


def _countable(ttl: int, now: int) -> int:
    """Seconds that Redis can count, as an expiry and as a score; 0, for ever, where it could not."""
    return ttl if 0 < ttl < NEVER - now else 0
