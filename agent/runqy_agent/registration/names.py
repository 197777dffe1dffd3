"""Names of queues: ``inference`` is a parent, ``inference.high`` or ``inference:high`` one of its sub-queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def parent_of(name: str) -> str:
    """The text before the last ``.`` or ``:``; a name without either is its own parent."""
    cut = max(name.rfind("."), name.rfind(":"))
    return name[:cut] if cut > 0 else name


def parents_of(names: Sequence[str]) -> list[str]:
    """The parents of some queues, in order, each once, however its separators are spelt."""
    parents: dict[str, str] = {}
    for name in names:
        parents.setdefault(same_spelling(parent_of(name)), parent_of(name))
    return list(parents.values())


def same_spelling(name: str) -> str:
    """A name with all separators alike, for comparison only."""
    return name.replace(":", ".")
