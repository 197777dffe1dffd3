"""Ids as Redis gives them: bytes, which need not be UTF-8."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)


def text(value: bytes | str) -> str:
    """One as text, from which the same bytes can be made again."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def texts(values: Iterable[bytes | str]) -> list[str]:
    """Several of them."""
    return [text(value) for value in values]


def second_ids(queue: str, place: str, found: Iterable[bytes]) -> list[str]:
    """Log which ids were removed from a place because their tasks are elsewhere. Returns them."""
    ids = texts(found)
    for task_id in ids:
        log.warning("queue %s: dropped %r from %s: a second id of a task that is elsewhere", queue, task_id, place)
    return ids
