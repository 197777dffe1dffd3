"""Sharing the watch over empty queues, so that one new task wakes one worker of the fleet and not all of them.

Whoever watches a queue is told by Redis when its pending list changes (see tracking.py), so only two workers do, from
two slots; the one at the second slot looks a moment later whether the first has taken the task. All others wait on
the queue's wakeup list. A worker that is told of a task for which it has no room leaves its slot and wakes another
one; so does a worker that found more tasks than it has room for.

Slots are the fields of one hash, whatever the queues, and count only while their worker shows a sign of life: it costs
a worker one short script every few seconds, with any number of queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from runqy_agent.broker import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client

ALIVE_MS = 8_000
"""How long a worker that gives no more signs of life keeps its slots."""
SLOTS_MS = 60_000
"""How long the hash stays when nobody watches any more."""
WAKEUP_MS = 10_000
"""How long a wakeup is kept that nobody takes."""
MOST_AT_ONCE = 500
"""Queues in one script; Lua passes on no more than some thousands of values."""

Wakeup = Literal["work", "slot"]
"""There may be a task; a slot may be free."""
_MOST_WAKEUPS: dict[Wakeup, int] = {"work": 2, "slot": 1}


class Watch:
    """One worker's part in the watch. All methods raise what Redis raises."""

    def __init__(self, broker: Broker, client: Client, who: str) -> None:
        """Prepare.

        Args:
            broker: for the scripts.
            client: for the blocking command alone, with a reply timeout above the blocking time.
            who: tells this worker from all others.
        """
        self._broker = broker
        self._client = client
        self._who = who
        self._slots = keys.watch_slots(broker.layout)

    async def enter(self, queues: Sequence[str]) -> list[int]:
        """Take slots, or keep them, and show a sign of life that keeps also those of other queues.

        Returns:
            For each queue the slot: 1, 2, or 0 if others have both.
        """
        alive = keys.watcher_alive("", self._broker.layout)
        args = [self._who, alive, ALIVE_MS, SLOTS_MS]
        numbers: list[int] = []
        for at in range(0, len(queues) or 1, MOST_AT_ONCE):
            some = queues[at : at + MOST_AT_ONCE]
            numbers += await self._broker.run_script("watch", [self._slots, alive + self._who], [*args, *some])
        return numbers

    async def leave(self, queues: Sequence[str], wakeup: Wakeup) -> None:
        """Leave the slots of these queues, if this worker has them, and wake another worker for each queue."""
        args = [self._who, wakeup, _MOST_WAKEUPS[wakeup], WAKEUP_MS]
        for at in range(0, len(queues), MOST_AT_ONCE):
            some = queues[at : at + MOST_AT_ONCE]
            lists = [keys.wakeup(queue, self._broker.layout) for queue in some]
            await self._broker.run_script("unwatch", [self._slots, *lists], [*args, *some])

    async def next_wakeup(self, queues: Sequence[str], seconds: float) -> tuple[str, str] | None:
        """Wait for a wakeup, at most so long. Returns the queue and what is said, or None."""
        lists = {keys.wakeup(queue, self._broker.layout): queue for queue in queues}
        found = await self._client.execute_command("BLPOP", *lists, seconds)
        return (lists[found[0].decode()], found[1].decode()) if found else None
