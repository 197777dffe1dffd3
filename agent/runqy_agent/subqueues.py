"""The sub-queues that a worker serves, each with who waits on it while it is empty. The server may change them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.loops.listener import Listener
    from runqy_agent.registration import ServedQueue

log = logging.getLogger(__name__)


class Subqueues:
    """The sub-queues of a worker.

    Attributes:
        served: what is served now.
        listen: makes the listener of a sub-queue, by its name.
        on_end: called with the task of a listener that has ended though nobody stopped it.
    """

    def __init__(self) -> None:
        self.served: list[ServedQueue] = []
        self.listen: Callable[[str], Listener]
        self.on_end: Callable[[asyncio.Task[None]], None] = lambda _: None
        self._listeners: dict[str, Listener] = {}

    def __str__(self) -> str:
        return ", ".join(f"{queue.name} ({queue.priority})" for queue in self.served)

    def new_among(self, queues: Sequence[ServedQueue]) -> list[str]:
        """The names of those that are not served yet."""
        names = {queue.name for queue in self.served}
        return [queue.name for queue in queues if queue.name not in names]

    def paired(self) -> list[tuple[ServedQueue, Listener]]:
        """Each sub-queue with its listener, which is made if there is none."""
        for queue in self.served:
            if queue.name not in self._listeners:
                self._listeners[queue.name] = self.listen(queue.name)
        return [(queue, self._listeners[queue.name]) for queue in self.served]

    def start(self) -> None:
        """Start the listeners that do not run yet."""
        for listener in self._listeners.values():
            if listener.task is None:
                listener.start().add_done_callback(self.on_end)

    async def change(self, served: Sequence[ServedQueue], use: Callable[[], None]) -> None:
        """Serve these from now on.

        Args:
            served: all of them.
            use: called once ``paired`` gives them, and before the listeners of those that are gone are stopped.
        """
        before, self.served = str(self), list(served)
        names = {queue.name for queue in served}
        use()
        if str(self) != before:
            log.info("the worker serves %s from now on, instead of %s", self, before)
        self.start()
        for name in self._listeners.keys() - names:
            await self._stop(self._listeners.pop(name))

    async def stop(self) -> None:
        """Stop all listeners."""
        await asyncio.gather(*(self._stop(listener) for listener in self._listeners.values()))

    async def _stop(self, listener: Listener) -> None:
        if listener.task is not None:
            listener.task.remove_done_callback(self.on_end)
        await listener.stop()
