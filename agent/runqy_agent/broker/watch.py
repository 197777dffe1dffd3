"""Watching an empty queue, so that one new task wakes one worker of the fleet and not all of them.

A blocking move of the pending list onto itself waits for a task and changes nothing: it is a look. Whoever sees a task
takes it with one script, which gives it a lease in the same step and takes nothing from a paused queue. A blocking move
into ``active`` would do both too early: it takes from a queue that was paused while it waited, and whoever dies before
its next command leaves the task in ``active`` without a lease.

All that look wake up with every task, so only two workers do: from two places, kept under an expiry. The one at the
second place looks again a moment later, in case the first does not take the task. The others wait for a turn, which is
passed on by a worker that has no more room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.broker import keys

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client

PLACE_MS = 8_000
"""How long a place is kept for a worker that does not renew it."""
TURN_MS = 10_000
"""How long a turn is kept that nobody takes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands.

    Attributes:
        number: 1: it looks; 2: it looks and lets the first go ahead; 0: both places are taken, it waits for a turn.
        paused: the queue is paused.
    """

    number: int
    paused: bool


class Watch:
    """One worker's watch over one queue. All methods raise what Redis raises."""

    def __init__(self, broker: Broker, client: Client, queue: str, who: str) -> None:
        """Prepare.

        Args:
            broker: for the scripts.
            client: for the blocking commands alone, with a reply timeout above the blocking time.
            queue: the sub-queue.
            who: tells this worker from all others.
        """
        self.queue = queue
        self._broker = broker
        self._client = client
        self._who = who
        self._keys = keys.queue_keys(queue, broker.layout)

    async def enter(self) -> Place:
        """Take a place, or keep it."""
        names = self._keys
        args = [self._who, PLACE_MS, TURN_MS]
        number, paused = await self._broker.run_script("watch", [*names.watchers, names.turn, names.paused], args)
        return Place(number, bool(paused))

    async def look(self, seconds: float) -> bool:
        """Wait until the queue has a task, at most so long. Nothing is changed."""
        pending = self._keys.pending
        found = await self._client.execute_command("BLMOVE", pending, pending, "RIGHT", "RIGHT", seconds)
        return found is not None

    async def wait_turn(self, seconds: float) -> str:
        """Wait for a turn, at most so long. ``work``: there is a task; ``place``: a place is free; empty: neither."""
        found = await self._client.execute_command("BLPOP", self._keys.turn, seconds)
        return found[1].decode() if found else ""

    async def leave(self) -> None:
        """Give up the place, if it is this worker's, and pass the turn on."""
        names = self._keys
        script_keys = [*names.watchers, names.turn, names.paused, names.pending]
        await self._broker.run_script("unwatch", script_keys, [self._who, TURN_MS])
