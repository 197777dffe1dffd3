"""Is told by a sentinel when the master changes, and leaves the old one at once.

An old master that is alive goes on taking writes for about ten seconds, until the sentinels make a replica of it, and
then forgets them. Whoever waits for a connection to break writes into the void until then.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.broker.connection import describe
from runqy_agent.loops.loop import TROUBLE, Backoff, Loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0


class MasterWatch(Loop):
    """Keeps a subscription at some sentinel."""

    name: ClassVar[str] = "master watch"

    def __init__(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Args: follow: see ``Clients.follow_master``."""
        super().__init__()
        self._follow = follow

    async def run(self) -> None:
        """Subscribe, whatever happens to the connection."""
        backoff = Backoff(longest=LONGEST_PAUSE)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._follow()
            except TROUBLE as error:
                self.troubles.failed(error)
                log.info("no news from the sentinels (%s), subscribing again", describe(error))
            if loop.time() - started > LONGEST_PAUSE:
                backoff.reset()
                self.troubles.worked()
            await asyncio.sleep(backoff.delay())
