"""Tasks as they come out of Redis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from runqy_agent.broker.asynq_pb2 import TaskMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_TIMEOUT = 30 * 60
"""Seconds a task may run if its message has neither timeout nor deadline (asynq's default)."""

_NEVER = 10**12
"""Seconds; longer than anything runs, and a number that can be counted with."""

DEADLINE_EXCEEDED = "context deadline exceeded"
"""asynq's own text."""
MOST_SECONDS = 253_402_300_799
"""Unix seconds of 9999-12-31, the last that everybody who reads a time can show; no number of seconds is above it."""
_MOST_SECONDS = str(MOST_SECONDS)

MAX_ERROR_BYTES = 64 * 1024
"""How much of an error's text is stored."""


@dataclass(slots=True, eq=False)
class TakenTask:
    """A task this worker holds.

    Attributes:
        id: unique within its queue.
        queue: the sub-queue it came from.
        message: what asynq stored; fields unknown to us are kept when it is written back.
        held_until: unix seconds of Redis' clock, the latest end of lease this worker has asked for.
        lease_ends: monotonic seconds, the end of lease that Redis has confirmed.
        timeout: seconds that its own run may take; 0 for no limit but the deadline.
        deadline: monotonic seconds, when its run must be over; infinity as long as that is not known.
        written_at: monotonic seconds, when it was given to a process; 0 if it was not.
        began_at: monotonic seconds, when its own run began; 0 if it has not.
        pending_since: unix nanoseconds, 0 if unknown.
        ttl_completed, ttl_archived, pending_timeout: seconds as stamped on the task by the server; 0 means never,
            None that it carries none.
        malformed: why the stored message could not be used; such a task is not run.
        plain: there is no stored message, but plain fields (see flat.py).
    """

    id: str
    queue: str
    message: TaskMessage
    held_until: float
    lease_ends: float
    timeout: float = 0.0
    deadline: float = math.inf
    written_at: float = 0.0
    began_at: float = 0.0
    pending_since: int = 0
    ttl_completed: int | None = None
    ttl_archived: int | None = None
    pending_timeout: int | None = None
    active_timeout: int | None = None
    malformed: str = ""
    plain: bool = False

    @property
    def type(self) -> str:
        """The task's type; the runqy server puts the queue's name here."""
        return self.message.type

    @property
    def payload(self) -> bytes:
        """The payload, as the client sent it."""
        return self.message.payload

    @property
    def headers(self) -> Mapping[str, str]:
        """Asynq headers; mostly empty."""
        return self.message.headers

    def limit(self, active_timeout: float, offset: float) -> None:
        """Find out how long it may run: by its message, else for its or the worker's active timeout, else 30 minutes.

        Args:
            active_timeout: the worker's own limit in seconds, for a task that carries none; 0 for none.
            offset: seconds from the monotonic clock to Redis'.
        """
        message = self.message
        if message.deadline:
            self.deadline = message.deadline - offset
        self.timeout = message.timeout
        if not message.timeout and not message.deadline:
            limit = active_timeout if self.active_timeout is None else self.active_timeout
            self.timeout = min(limit, _NEVER) if limit > 0 else DEFAULT_TIMEOUT

    def begin(self, moment: float) -> None:
        """Its own run has begun, monotonic seconds: its timeout counts from then."""
        self.began_at = moment
        if self.timeout:
            self.deadline = min(self.deadline, moment + self.timeout)

    def is_over(self, now: float) -> bool:
        """Whether a run that begins now, in monotonic seconds, would be over."""
        return self.deadline <= now or self.timeout < 0

    def deadline_error(self, now: float) -> str:
        """The error of a task whose deadline is over, in asynq's words. ``now`` is in monotonic seconds."""
        if self.began_at:
            return f"{DEADLINE_EXCEEDED}: it was still running after {now - self.began_at:.1f} s"
        return f"{DEADLINE_EXCEEDED}: it was over before the run began"


def decode(raw: bytes | None, task_id: str, queue: str) -> tuple[TaskMessage, str]:
    """Read a stored message.

    Returns:
        The message and an empty string; or, where the stored bytes are no message of this task, a message that stands
        in for it (with the bytes found as its payload, so that nothing is lost) and the reason.
    """
    if raw is None:
        reason = "the task's hash has no field msg"
    else:
        try:
            message = TaskMessage.FromString(raw)
        except DecodeError:
            reason = f"the stored message ({len(raw)} bytes) is not a valid asynq message"
        else:
            if message.id == task_id:
                return message, ""
            reason = f"the stored message ({len(raw)} bytes) names the task {message.id[:100]!r} instead"
    return stand_in(task_id, queue, raw or b""), reason


def stand_in(task_id: str, queue: str, payload: bytes) -> TaskMessage:
    """A message in place of one that cannot be used."""
    return TaskMessage(id=task_id.encode("utf-8", "replace").decode(), queue=queue, payload=payload)


def stored_error(text: str) -> str:
    """An error's text as it may be stored: valid UTF-8, bounded, its beginning and its end kept."""
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_ERROR_BYTES:
        half = MAX_ERROR_BYTES // 2 - 32
        cut = len(data) - 2 * half
        data = data[:half] + f"\n… {cut} bytes left out …\n".encode() + data[-half:]
    return data.decode("utf-8", "ignore")


def stored_seconds(value: bytes | None) -> int | None:
    """A number of seconds stored in a task's hash; None where it is missing or is no whole number of at least 0."""
    digits = _digits(value)
    if digits is None:
        return None
    return min(int(digits), MOST_SECONDS) if len(digits) <= len(_MOST_SECONDS) else MOST_SECONDS


def stored_nanoseconds(value: bytes | None) -> int:
    """A point in time stored in a task's hash; 0 where it is missing or none that a clock could show."""
    digits = _digits(value)
    return int(digits) if digits and len(digits) <= len(_MOST_SECONDS) + len("000000000") else 0


def _digits(value: bytes | None) -> bytes | None:
    stripped = (value or b"").strip()
    if not stripped.isdigit():
        return None
    return stripped.lstrip(b"0") or b"0"
