"""Makes scheduled tasks, and tasks to be retried, pending when they are due."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from runqy_agent.broker.existing import queues_with
from runqy_agent.loops.loop import PeriodicLoop, for_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.broker import Broker

INTERVAL = 5.0


class Forwarder(PeriodicLoop):
    """Forwards due tasks of all queues every five seconds, as asynq does.

    Attributes:
        queues: the sub-queues; may be replaced at any time.
    """

    name: ClassVar[str] = "forwarder"

    def __init__(self, broker: Broker, queues: Sequence[str], interval: float = INTERVAL) -> None:
        super().__init__(interval)
        self._broker = broker
        self.queues = queues

    async def round(self) -> None:
        """All queues once."""
        await for_each(await queues_with(self._broker, self.queues, "scheduled", "retry"), self._broker.forward)
