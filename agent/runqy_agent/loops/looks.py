"""Looking whether queues have something, and being told of changes where Redis does that."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from runqy_agent.broker.cluster import ClusterClient
from runqy_agent.broker.connection import describe
from runqy_agent.broker.existing import count, existing
from runqy_agent.broker.tracking import UntrackableError
from runqy_agent.loops.loop import TROUBLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.fallbacks import Fallbacks
    from runqy_agent.broker.tracking import Tracker

log = logging.getLogger(__name__)

VERIFY_SECONDS = 5.0
"""Between two looks at queues of whose changes Redis tells. They would find a task only after trouble."""
POLL_SECONDS = 0.1
"""Between two looks where Redis tells of no changes. One command does, but for a cluster."""
POLL_CLUSTER_SECONDS = (0.02, 1.0)
"""The same on a cluster: for each queue, and at most."""


class Looks:
    """The looks of one worker. All methods raise what Redis raises."""

    def __init__(self, client: Client, tracker: Tracker, fallbacks: Fallbacks) -> None:
        """Prepare.

        Args:
            client: for looks that nobody needs to be told about.
            tracker: tells of changes.
            fallbacks: learns if Redis tells of none.
        """
        self._client = client
        self._tracker: Tracker | None = tracker
        self._fallbacks = fallbacks
        self._plain_until = 0.0

    @property
    def is_told(self) -> bool:
        """Whether Redis tells of changes."""
        return self._tracker is not None and asyncio.get_running_loop().time() >= self._plain_until

    def interval(self, queues: int) -> float:
        """Seconds from one look at so many queues to the next."""
        if self.is_told:
            return VERIFY_SECONDS
        if not isinstance(self._client, ClusterClient):
            return POLL_SECONDS
        each, most = POLL_CLUSTER_SECONDS
        return min(most, max(POLL_SECONDS, each * queues))

    async def existing(self, names: Sequence[str], *, tracked: bool) -> list[bool]:
        """For each key whether it exists; changes of it are told from now on if it is ``tracked``."""
        if tracked and self._tracker is not None and self.is_told:
            try:
                return await self._tracker.existing(names)
            except UntrackableError as error:
                await self._tracker.close()
                self._tracker = None
                instead = f"new tasks are looked for every {self.interval(len(names)):g} s instead"
                self._fallbacks.use(str(error), instead)
            except TROUBLE as error:  # maybe there is no connection to be had for this
                log.debug("changes of queues are not told: %s", describe(error))
                self._plain_until = asyncio.get_running_loop().time() + VERIFY_SECONDS
        return await existing(self._client, names)

    async def count(self, names: Sequence[str], *, tracked: bool) -> int:
        """How many of the keys exist."""
        if tracked and self._tracker is not None and self.is_told:
            with suppress(*TROUBLE):
                return await self._tracker.count(names)
        return await count(self._client, names)

    async def close(self) -> None:
        """End it."""
        if self._tracker is not None:
            with suppress(*TROUBLE):
                await self._tracker.close()
