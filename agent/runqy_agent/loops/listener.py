"""One sub-queue that is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy_agent.broker import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.broker.keys import Layout


class Listener:
    """One sub-queue, as the processor sees that somebody waits for its tasks.

    Attributes:
        queue: its name.
        armed: whether it is waited for; the queue is known to be empty, or paused, then.
        paused: whether the end of a pause is waited for.
        resting: there is no room for its tasks: they are to go to other workers.
        called: a task was seen, or told of, and the queue has not been found empty since.
        slot: from which this worker watches it; 0 for none.
        due: it must be looked at if this worker watches it.
        unsure: it must be looked at in any case.
        look_at: when to look whether the first watcher has taken a task, in seconds of the event loop; 0 for never.
    """

    def __init__(self, queue: str, layout: Layout = "asynq", stir: Callable[[], None] = lambda: None) -> None:
        """Args: stir: called when there is something to do for whoever waits."""
        names = keys.queue_keys(queue, layout)
        self.queue = queue
        self.pending_key, self.paused_key = names.pending, names.paused
        self.on_news: Callable[[], None] = lambda: None
        self.armed = self.due = self.unsure = True  # nothing is known of it at first
        self.paused = self.resting = self.called = False
        self.slot = 0
        self.look_at = 0.0
        self._stir = stir

    @property
    def key(self) -> str:
        """The key whose change is of interest."""
        return self.paused_key if self.paused else self.pending_key

    @property
    def on_duty(self) -> bool:
        """Whether a change concerns this worker. Without room it only passes on what it is told."""
        return (self.armed or self.resting) and self.slot > 0

    @property
    def waits(self) -> bool:
        """Whether it waits for tasks of its own."""
        return self.armed and not self.resting

    def arm(self, *, paused: bool = False) -> None:
        """Begin to wait; for the end of the pause first if the queue was found ``paused``."""
        self.armed = self.due = True
        self.paused = paused
        self.resting = self.called = False
        self._stir()

    def rest(self) -> None:
        """There is no room for a task: let other workers go first."""
        if not self.resting:
            self.resting = True
            if self.called:  # there may be more than there was room for
                self.unsure = True
                self._stir()

    def resume(self) -> None:
        """There is room again. What others were told of meanwhile is unknown."""
        if self.resting:
            self.resting = False
            self.unsure = self.unsure or self.slot == 0
            self._stir()

    def tell(self) -> None:
        """The queue should be asked."""
        self.armed = self.paused = False
        self.called = True
        self.on_news()
