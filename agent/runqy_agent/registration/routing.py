"""From configured queue names and the server's answers to the queues that are served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runqy_agent.errors import RegistrationError
from runqy_agent.registration.names import parent_of, parents_of, same_spelling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.registration.answer import Registration


@dataclass(frozen=True)
class ServedQueue:
    """A queue to take tasks from.

    Attributes:
        name: as the server spells it; it is part of the keys in Redis.
        priority: its weight among the others, at least 1.
        parent: the parent queue whose process handles its tasks.
    """

    name: str
    priority: int
    parent: str


@dataclass(frozen=True)
class Routing:
    """What to serve, and what is odd about it.

    Attributes:
        queues: in the order they were configured, each once.
        warnings: one line for each configured queue that the server does not know.
    """

    queues: list[ServedQueue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def route(queues: Sequence[str], registrations: Sequence[Registration], *, one_redis: bool = True) -> Routing:
    """Decide which sub-queues to serve.

    A parent's name means all its sub-queues, a full name only that one. ``.`` and ``:`` are alike.

    Args:
        queues: the configured names.
        registrations: what ``register`` returned for them: one for each parent, in the same order.
        one_redis: whether they must name the same Redis. A worker that runs stays with its own, and says so.

    Raises:
        RegistrationError: nothing is left to serve, or the answers name different Redis servers.
    """
    if one_redis:
        _require_one_redis(registrations)
    answers = dict(zip(map(same_spelling, parents_of(queues)), registrations, strict=True))
    served: dict[str, ServedQueue] = {}
    warnings = []
    for queue in queues:
        wanted, answer = same_spelling(queue), answers[same_spelling(parent_of(queue))]
        whole = parent_of(queue) == queue
        chosen = [sub for sub in answer.sub_queues if whole or same_spelling(sub.name) == wanted]
        for sub in chosen:
            served.setdefault(sub.name, ServedQueue(sub.name, sub.priority, answer.queue.name))
        if not chosen:
            warnings.append(f"the server has no queue {queue}; {answer.queue.name} has {_offer(answer)}")
    if not served:
        offer = "; ".join(f"{answer.queue.name}: {_offer(answer)}" for answer in registrations)
        raise RegistrationError(f"the server offers none of the configured queues {', '.join(queues)}; it has {offer}")
    return Routing(list(served.values()), warnings)


def _offer(answer: Registration) -> str:
    return ", ".join(sub.name for sub in answer.sub_queues)


def _require_one_redis(registrations: Sequence[Registration]) -> None:
    for other in registrations[1:]:
        first = registrations[0]
        differing = [name for name in first.redis.__struct_fields__ if _redis(first, name) != _redis(other, name)]
        if differing:
            raise RegistrationError(
                f"the server names different Redis servers for {first.queue.name} and {other.queue.name} (they differ "
                f"in {', '.join(differing)}); run one agent for each"
            )


def _redis(registration: Registration, name: str) -> object:
    return getattr(registration.redis, name)
