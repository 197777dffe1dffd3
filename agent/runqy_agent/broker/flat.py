"""The flat layout: the key table of runqy's first worker, where a task is the plain fields of a hash.

A client writes ``type``, ``payload``, ``retry`` (the retries used so far), ``max_retry`` and ``queue``, and possibly
``timeout`` (s) and ``deadline`` (unix s). A worker adds ``state``, ``error_msg``, ``last_failed_at``, ``completed_at``
and ``result``. That first worker counted retries in ``retried``, which is read and not written. A hash may also hold
``msg``, asynq's own message: then that is the task, and the plain fields are kept in step with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from runqy_agent.broker.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.asynq_pb2 import TaskMessage
    from runqy_agent.broker.channel import Channel
    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.exchange import Exchange, ExpiredTask
    from runqy_agent.broker.keys import Layout
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.broker.script_runner import Step
    from runqy_agent.broker.settle import Settled
    from runqy_agent.clock import Clock

DEFAULT_MAX_RETRY = 25
"""Retries of a task that does not say how many (the default of asynq's client)."""

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_DIGITS = re.compile(rb"[0-9]{1,19}")


@dataclass(frozen=True)
class FlatDefaults:
    """What is taken for a task whose hash does not say.

    Attributes:
        max_retry: how many retries it may have.
        ttl_completed: seconds it is kept once completed; 0: for ever.
    """

    max_retry: int = DEFAULT_MAX_RETRY
    ttl_completed: int = 24 * 3600


class FlatBroker(Broker):
    """The broker for the flat layout. Not for Redis Cluster: the keys of one queue do not share a slot."""

    layout: ClassVar[Layout] = "flat"
    values_taken: ClassVar[int] = 14

    def __init__(self, client: Client, clock: Clock, defaults: FlatDefaults, *, channel: Channel | None = None) -> None:
        """Use a client; see ``Broker``."""
        super().__init__(client, clock, channel=channel)
        self._defaults = defaults
        self._lookup_prefix = ""  # these are the tasks themselves, and the janitor deletes them

    def _exchange_step(self, request: Exchange, now: int, held_until: float) -> Step:
        with_fields = replace(request, finished=[_with_fields(settled) for settled in request.finished])
        return super()._exchange_step(with_fields, now, held_until)

    def _task(self, queue: str, values: list[Any], held_until: float) -> TakenTask:
        task = super()._task(queue, values[: Broker.values_taken], held_until)
        if values[1] is None:
            task.plain = True
            problems = _read(task.message, values[Broker.values_taken :], self._defaults.max_retry)
            task.malformed = "; ".join(problems)
            if task.ttl_completed is None:
                task.ttl_completed = self._defaults.ttl_completed
        return task

    async def expired(self, queue: str, cutoff: float, limit: int = 100) -> list[ExpiredTask]:
        """Find tasks whose lease ended. All of them may have run: not every worker of this layout notes the state."""
        found = await super().expired(queue, cutoff, limit)
        return [replace(expired, started=True) for expired in found]


def _read(message: TaskMessage, fields: Sequence[bytes | None], max_retry: int) -> list[str]:
    """Bring the plain fields of a task's hash into a message.

    Args:
        message: with id and queue.
        fields: type, payload, retry, retried, max_retry, timeout, deadline; None where the hash lacks the field.
        max_retry: for a task that does not say.

    Returns:
        What is wrong with them; what can be read stands in the message all the same.
    """
    task_type, payload, retry, retried, allowed, timeout, deadline = fields
    problems = []
    if task_type is None or payload is None:
        missing = [name for name, value in (("type", task_type), ("payload", payload)) if value is None]
        problems.append(f"the task's hash has no field {' and no field '.join(missing)}")
    try:
        message.type = (task_type or b"").decode()
    except UnicodeDecodeError:
        problems.append("the field type of the task's hash is not UTF-8")
    message.payload = payload or b""

    def number(name: str, raw: bytes | None, most: int, default: int = 0) -> int:
        if not raw:
            return default
        value = int(raw) if _DIGITS.fullmatch(raw) else -1
        if 0 <= value <= most:
            return value
        found = raw[:50].decode("utf-8", "replace")
        problems.append(f'the field {name} of the task\'s hash is "{found}"; allowed is a number from 0 to {most}')
        return default

    # The first worker counted in another field than clients write; no retry may be forgotten.
    message.retried = max(number("retry", retry, _INT32), number("retried", retried, _INT32))
    message.retry = number("max_retry", allowed, _INT32, max_retry)
    message.timeout = number("timeout", timeout, _INT64)
    message.deadline = number("deadline", deadline, _INT64)
    return problems


def _with_fields(settled: Settled) -> Settled:
    """A step whose message is replaced by the fields of the hash that it changes (see flat/store.lua)."""
    task, message = settled.task, settled.task.message
    fields: dict[str, str | bytes] = {}
    if settled.step == "complete":
        fields["completed_at"] = str(message.completed_at)
    elif settled.step in ("retry", "archive"):
        fields["error_msg"] = message.error_msg
        fields["last_failed_at"] = str(message.last_failed_at)
    else:
        return settled
    if not task.plain:
        fields["msg"] = message.SerializeToString()
        if not task.malformed:
            fields["max_retry"] = str(message.retry)
    if (settled.step == "retry" or not task.plain) and not task.malformed:
        fields["retry"] = str(message.retried)
    packed = b"".join(_packed(name) + _packed(value) for name, value in fields.items())
    return replace(settled, values=(packed, *settled.values[1:]))


def _packed(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data
