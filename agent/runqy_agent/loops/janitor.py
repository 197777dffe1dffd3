"""Deletes completed and archived tasks whose time is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.broker.existing import queues_with
from runqy_agent.loops.loop import PeriodicLoop, for_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.broker import Broker

log = logging.getLogger(__name__)

INTERVAL = 8.0
ARCHIVE_EVERY = 38
"""Rounds between two looks through the archives: about five minutes."""
BATCH = 100


class Janitor(PeriodicLoop):
    """Cleans up in batches, completed tasks every eight seconds (asynq's interval), archives now and then.

    Attributes:
        queues: the sub-queues; may be replaced at any time.
    """

    name: ClassVar[str] = "janitor"

    def __init__(self, broker: Broker, queues: Sequence[str], ttl_archived: int, interval: float = INTERVAL) -> None:
        """Make one.

        Args:
            broker: Redis.
            queues: sub-queues to clean.
            ttl_archived: seconds that archived tasks without a TTL of their own are kept; 0: for ever.
            interval: seconds between rounds.
        """
        super().__init__(interval)
        self._broker = broker
        self.queues = queues
        self._ttl_archived = ttl_archived
        self._rounds = 0

    async def round(self) -> None:
        """All queues once."""
        parts = ("completed", "archived") if self._archives_are_due else ("completed",)
        await for_each(await queues_with(self._broker, self.queues, *parts), self._clean)
        self._rounds += 1

    @property
    def _archives_are_due(self) -> bool:
        return self._rounds % ARCHIVE_EVERY == 0

    async def _clean(self, queue: str) -> None:
        while await self._broker.expire_completed(queue, BATCH) == BATCH:
            pass
        if self._archives_are_due:
            await self._look_through_archive(queue)

    async def _look_through_archive(self, queue: str) -> None:
        offset = 0
        while True:
            seen, deleted = await self._broker.expire_archived(queue, self._ttl_archived, offset)
            if not seen:
                return
            offset += seen - deleted
