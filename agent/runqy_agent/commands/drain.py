"""``runqy-agent drain``: let a worker finish its tasks and take no new ones, or take them again."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from runqy_agent.errors import RunqyAgentError

if TYPE_CHECKING:
    from runqy_agent.commands.endpoint import Endpoint, Status
    from runqy_agent.commands.units import Unit

_LOOK_SECONDS = 0.1


def drain(endpoint: Endpoint, unit: Unit | None, seconds: float, *, undo: bool) -> Status:
    """Signal the worker, and wait until it has nothing in flight, or takes tasks again.

    A worker that is still starting does not heed the signal: it gets it when it runs.

    Args:
        endpoint: of the worker.
        unit: whose main process is signalled; None for the process that the endpoint names.
        seconds: how long to wait.
        undo: take tasks again.

    Returns:
        Its last status. Whether it got there, ``drained`` tells.

    Raises:
        RunqyAgentError: no worker answers, or it may not be signalled.
    """
    deadline = time.monotonic() + seconds
    status = endpoint.must_answer()
    while status["status"] == "bootstrapping" and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        status = endpoint.must_answer()
    if status["status"] == "bootstrapping":
        return status
    _signal(unit.main_process() if unit else status["pid"], undo=undo)
    while True:  # what it said before the signal does not count
        time.sleep(_LOOK_SECONDS)
        status = endpoint.must_answer()
        if drained(status, undo=undo) or time.monotonic() > deadline:
            return status


def drained(status: Status, *, undo: bool) -> bool:
    """Whether it is as it was asked to be."""
    if undo:
        return bool(status["status"] == "running")
    return bool(status["status"] == "draining" and status["running"] == 0)


def _signal(pid: int, *, undo: bool) -> None:
    try:
        os.kill(pid, signal.SIGCONT if undo else signal.SIGTSTP)
    except PermissionError:
        raise RunqyAgentError(f"process {pid} belongs to somebody else; run this as root or as its user") from None
    except ProcessLookupError:
        raise RunqyAgentError(f"the worker's process {pid} has just ended") from None
