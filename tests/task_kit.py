"""Tasks as they would come out of Redis, for tests that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.message import TakenTask

if TYPE_CHECKING:
    from runqy_agent.outcome import Outcome

NOW = 1_800_000_000
NOW_NS = NOW * 1_000_000_000


def taken(task_id: str = "t1", payload: bytes = b"{}", *, queue: str = "q.default", **fields: Any) -> TakenTask:
    """A task taken at ``NOW``. Fields that only ``TakenTask`` has are set on it, all others on its message."""
    only_taken = TakenTask.__dataclass_fields__.keys() - TaskMessage.DESCRIPTOR.fields_by_name.keys()
    own = {name: fields.pop(name) for name in only_taken & fields.keys()}
    message = TaskMessage(**{"type": queue, "id": task_id, "queue": queue, "payload": payload, "retry": 3, **fields})
    whole: dict[str, Any] = {"held_until": NOW + 30, "lease_ends": NOW + 30, **own}
    return TakenTask(id=task_id, queue=queue, message=message, **whole)


class Outcomes:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Outcome]] = []
        self.wakes = 0

    def finished(self, task: TakenTask, outcome: Outcome) -> None:
        self.seen.append((task.id, outcome))

    def wake(self) -> None:
        self.wakes += 1

    def health_changed(self) -> None:
        self.wakes += 1
