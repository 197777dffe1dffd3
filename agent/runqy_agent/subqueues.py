"""The sub-queues that a worker serves, each with who waits on it while it is empty. The server may change them."""

from __future__ import annotations

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
        listen: begins to wait for tasks of a sub-queue, by its name.
        dismiss: ends that.
    """

    def __init__(self) -> None:
        self.served: list[ServedQueue] = []
        self.listen: Callable[[str], Listener]
        self.dismiss: Callable[[str], None]
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

    def change(self, served: Sequence[ServedQueue], use: Callable[[], None]) -> None:
        """Serve these from now on.

        Args:
            served: all of them.
            use: called once ``paired`` gives them, and before those that are gone are waited for no more.
        """
        before, self.served = str(self), list(served)
        use()
        if str(self) != before:
            log.info("the worker serves %s from now on, instead of %s", self, before)
        for name in self._listeners.keys() - {queue.name for queue in served}:
            del self._listeners[name]
            self.dismiss(name)
