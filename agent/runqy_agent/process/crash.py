"""What the crash of a process means for the task it was executing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask

_COUNTED = re.compile(r"crashed the process (\d{1,6}) times?: ")
FEWEST = 2
"""Crashes before a task is given up that may be tried again: the first one may have been an accident of the host."""


def blame(task: TakenTask, how: str) -> Failure:
    """The outcome of a task that was being executed when its process crashed.

    How often that has happened to it stands at the beginning of its error text in Redis, so every worker can go on
    counting. A task that has crashed as many processes as it allows retries is archived.

    Args:
        task: its message holds the error of the attempt before.
        how: exit code or signal, and the last lines of standard error.
    """
    before = _COUNTED.match(task.message.error_msg)
    crashes = 1 + (int(before[1]) if before else 0)
    times = "1 time" if crashes == 1 else f"{crashes} times"
    return Failure(f"crashed the process {times}: {how}", retry=crashes < max(FEWEST, task.message.retry))
