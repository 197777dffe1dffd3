"""What has happened to every task, as Redis itself has recorded it.

Redis appends every change to its file (AOF) before anybody can see it. Read afterwards, it tells each task's states in
order, with nothing left out, whatever was killed or frozen meanwhile; and without the load that MONITOR would be.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.settle import LEASE_EXPIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

ARGUMENTS = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
"""Of a Redis whose journal can be read: a rewrite would replace the history by its result."""

GONE = "gone"
"""The state of a task that was done and is not kept: its hash is deleted."""

NEXT = {
    "": {"pending", "scheduled"},
    "scheduled": {"pending"},
    "pending": {"active"},
    "active": {"pending", "retry", "completed", "archived", GONE},
    "retry": {"pending"},
    "completed": set(),
    "archived": set(),
    GONE: set(),
}
"""Which states may follow which."""


@dataclass(frozen=True)
class Step:
    """A task changes its state.

    Attributes:
        state: the new one.
        retried: the retry count in its message, after the step.
        error: why it has failed, if this is what the step says.
    """

    state: str
    retried: int
    error: str = ""

    @property
    def recovered(self) -> bool:
        """Whether it is taken from a worker that let its lease end."""
        return self.error == LEASE_EXPIRED


@dataclass(frozen=True)
class Take:
    """A worker holds a task, until it ends in some way.

    Attributes:
        attempt: the task's retry count meanwhile.
        end: the step that ended it; None if it never did.
    """

    attempt: int
    end: Step | None


def read(client: redis.Redis, queue: str) -> dict[str, list[Step]]:
    """Task id to its steps, for one queue."""
    prefix = keys.queue_keys(queue).task_prefix.encode()
    steps: dict[str, list[Step]] = defaultdict(list)
    for name, *arguments in _commands(client):
        if name in {b"HSET", b"HMSET"} and arguments[0].startswith(prefix):
            task_id = arguments[0][len(prefix) :].decode()
            fields = dict(zip(arguments[1::2], arguments[2::2], strict=True))
            if b"state" in fields:
                steps[task_id].append(_step(fields, steps[task_id]))
        elif name in {b"DEL", b"UNLINK"}:
            for key in arguments:
                if key.startswith(prefix):
                    steps[key[len(prefix) :].decode()].append(Step(GONE, 0))
    return dict(steps)


def check_order(steps: dict[str, list[Step]]) -> None:
    """No task has made a step that cannot follow the one before, such as ending twice, or while nobody held it."""
    for task_id, made in steps.items():
        states = ["", *(step.state for step in made)]
        for before, after in pairwise(states):
            assert after in NEXT[before], f"task {task_id} went from {before!r} to {after!r}: {made}"


def takes(steps: list[Step]) -> list[Take]:
    """When a task was held by a worker, and how that ended."""
    ends: list[Step | None] = [*steps[1:], None]
    return [Take(step.retried, end) for step, end in zip(steps, ends, strict=True) if step.state == "active"]


def _step(fields: dict[bytes, bytes], before: list[Step]) -> Step:
    state = fields[b"state"].decode()
    if b"msg" not in fields:
        return Step(state, before[-1].retried)
    message = TaskMessage.FromString(fields[b"msg"])
    return Step(state, message.retried, message.error_msg if state in {"retry", "archived"} else "")


def _commands(client: redis.Redis) -> Iterator[list[bytes]]:
    # The file is written before a reply is sent, so it holds all that anybody has been told.
    directory: Any = client.config_get("dir")
    root = Path(directory["dir"])
    parts = [*root.glob("appendonly.aof"), *root.glob("appendonlydir/*.incr.aof")]  # Redis 6; Redis 7 and newer
    assert len(parts) == 1, f"one file without a rewrite, not {parts}"
    with parts[0].open("rb") as file:
        while head := file.readline():
            if head.startswith(b"#"):  # an annotation
                continue
            assert head.startswith(b"*"), f"not a command: {head[:50]!r}"
            command = []
            for _ in range(int(head[1:])):
                length = int(file.readline()[1:])
                command.append(file.read(length + 2)[:length])
            command[0] = command[0].upper()
            yield command
