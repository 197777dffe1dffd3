"""Answers behind other output in one line: whoever wrote that did not end it with a line break."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy_agent.process.lines import NAMES_TASK
from runqy_agent.process.protocol import decode_answer

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_TRIES = 64
_FEWEST_TRIES = 4
_MOST_BYTES = 1 << 20
"""Bytes of a line that are decoded in vain, the fewest tries aside: a hostile line must not hold up others."""


def split_glued(line: bytes, in_flight: Callable[[str], bool]) -> tuple[bytes, list[bytes]]:
    """Take the complete answers to tasks in flight off the end of a line that is no message as a whole.

    An object that is only a part of another one is no answer, nor is one to a task that nobody waits for: both are
    what somebody has printed.

    Returns:
        What is left of the line, which is printing, and the answers in the order they were written.
    """
    answers: dict[str, bytes] = {}
    while (found := _last(line, in_flight)) is not None and found[1] not in answers:
        at, task_id = found
        line, answers[task_id] = line[:at], line[at:]
    return line, list(answers.values())[::-1]


def _last(line: bytes, in_flight: Callable[[str], bool]) -> tuple[int, str] | None:
    """Where the answer begins that the line ends with, and its task."""
    at = line.rfind(NAMES_TASK)
    if at < 0 or not line.rstrip().endswith(b"}"):
        return None
    for _ in range(max(_FEWEST_TRIES, min(_MOST_TRIES, _MOST_BYTES // len(line)))):
        at = line.rfind(b"{", 0, at)
        if at < 0:
            return None
        answer = decode_answer(line[at:])
        if answer is not None:
            return (at, answer.task_id) if in_flight(answer.task_id) else None
    return None
