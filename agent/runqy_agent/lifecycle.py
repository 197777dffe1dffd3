"""From the start of a worker to its end, as one call; and how it is told to end, from any thread or by a signal."""

from __future__ import annotations

import asyncio
import logging

from runqy_agent.handlers import HandlerTable
from runqy_agent.signals import stop_signals

log = logging.getLogger(__name__)


class Lifecycle(HandlerTable):
    """What a worker does whole; its parts are the worker's."""

    def __init__(self) -> None:
        """Prepare; nothing runs yet."""
        super().__init__()
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def bootstrap(self) -> None:
        """Do all but taking tasks."""
        raise NotImplementedError

    async def run(self) -> None:
        """Take tasks until ``stop`` is called."""
        raise NotImplementedError

    async def serve(self) -> None:
        """``bootstrap`` and ``run`` in one; ``stop`` ends it also before the start is complete.

        Raises:
            RunqyAgentError: as ``bootstrap`` and ``run`` do.
        """
        bootstrap = asyncio.create_task(self.bootstrap(), name="bootstrap")
        stop = asyncio.create_task(self._stop_requested.wait(), name="stop")
        try:
            await asyncio.wait([bootstrap, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            bootstrap.cancel()  # changes nothing if it is done
            await asyncio.wait([bootstrap])
        if bootstrap.cancelled():
            log.info("stopped before the start was complete")
            return
        bootstrap.result()
        await self.run()

    def run_blocking(self) -> None:
        """``serve`` for a program without an event loop; returns when the worker has ended.

        Called in the main thread, it makes SIGTERM and SIGINT call ``stop`` meanwhile. Raises what ``serve`` does.
        """
        with stop_signals(self.stop):
            asyncio.run(self.serve())

    def stop(self) -> None:
        """Drain and end. A second call does not wait for running tasks any more. Any thread may call it."""
        if self._loop is None:
            self._stop()
        else:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._stop_requested.is_set():
            self._hurry.set()
        self._stop_requested.set()
