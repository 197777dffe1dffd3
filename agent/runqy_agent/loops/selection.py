"""Which sub-queue is served next: by weight without starvation, or by strict priority."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Selector(Protocol):
    """Distributes free slots over queues that have something to give."""

    def plan(self, slots: int, eligible: Collection[str]) -> dict[str, int]:
        """How many tasks to take from which queue.

        Args:
            slots: how many there is room for.
            eligible: queues that may have tasks.

        Returns:
            Queue to number, only numbers above zero.
        """


class StrictPriority:
    """Everything goes to the highest priority that has tasks."""

    def __init__(self, priorities: Sequence[tuple[str, int]]) -> None:
        """Take pairs of queue and priority; a higher number goes first, equal ones in the given order."""
        self._order = [name for name, _ in sorted(priorities, key=lambda pair: -pair[1])]

    def plan(self, slots: int, eligible: Collection[str]) -> dict[str, int]:
        """All slots for the first eligible queue."""
        for name in self._order:
            if name in eligible and slots > 0:
                return {name: slots}
        return {}


class WeightedShares:
    """Slots in proportion to the weights, evenly spread: weights 9:3 give three to one over any few slots.

    Every eligible queue gains its weight with every slot, and the one that has gained most gets the slot and pays the
    sum of all weights. A queue that has nothing to give gains nothing meanwhile, so it cannot come back with a claim
    to everything. Where to begin is random, so that the workers of a fleet do not all ask the same queue at once.
    """

    def __init__(self, weights: Sequence[tuple[str, int]]) -> None:
        """Take pairs of queue and weight; weights are positive."""
        divisor = math.gcd(*(weight for _, weight in weights)) if weights else 1
        self._weights = {name: weight // divisor for name, weight in weights}
        self._gains = {name: random.uniform(0, weight) for name, weight in self._weights.items()}

    def plan(self, slots: int, eligible: Collection[str]) -> dict[str, int]:
        """Hand out the slots one by one."""
        names = [name for name in self._weights if name in eligible]
        if not names:
            return {}
        if len(names) == 1:
            return {names[0]: slots} if slots > 0 else {}
        total = sum(self._weights[name] for name in names)
        plan: dict[str, int] = {}
        for _ in range(slots):
            best = names[0]
            for name in names:
                self._gains[name] += self._weights[name]
                if self._gains[name] > self._gains[best]:
                    best = name
            self._gains[best] -= total
            plan[best] = plan.get(best, 0) + 1
        return plan
