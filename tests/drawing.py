"""Random arguments out of one string of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Draw:
    """Turns some of Hypothesis' bytes into the arguments of one step. Zeros give the simplest ones.

    Histories are drawn as one string of bytes, and not as a list of strategies: of such a list Hypothesis would derive
    five histories with a part doubled for each that is new.
    """

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def below(self, number: int) -> int:
        """A number from 0."""
        return next(self._bytes) % number


Drawing = Callable[[Draw], Any]


def among(*values: Any) -> Drawing:
    """One of them."""
    return lambda draw: values[draw.below(len(values))]


def chance(number: int) -> Drawing:
    """True once in so many times."""
    return lambda draw: draw.below(number) == number - 1


def some(drawing: Drawing, most: int) -> Drawing:
    """A list."""
    return lambda draw: [drawing(draw) for _ in range(draw.below(most + 1))]


def pair(first: Drawing, second: Drawing) -> Drawing:
    """A pair."""
    return lambda draw: (first(draw), second(draw))
