"""``runqy-agent drain``: let a worker finish its tasks and take no new ones, or take them again."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from runqy_agent.errors import RunqyAgentError

if TYPE_CHECKING:
    from runqy_agent.commands.endpoint import Endpoint, Status

_LOOK_SECONDS = 0.1


def drain(endpoint: Endpoint, seconds: float, *, undo: bool) -> Status:
    """Signal the worker, and wait until it has nothing in flight, or takes tasks again.

    Args:
        endpoint: of the worker.
        seconds: how long to wait.
        undo: take tasks again.

    Returns:
        Its last status. Whether it got there, ``drained`` tells.

    Raises:
        RunqyAgentError: no worker answers, or it may not be signalled.
    """
    status = _status(endpoint)
    pid = status["pid"]
    try:
        os.kill(pid, signal.SIGCONT if undo else signal.SIGTSTP)
    except PermissionError:
        raise RunqyAgentError(f"process {pid} belongs to somebody else; run this as root or as its user") from None
    except ProcessLookupError:
        raise RunqyAgentError(f"the worker {status['worker_id']} has just ended") from None
    deadline = time.monotonic() + seconds
    while not drained(status, undo=undo) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        status = _status(endpoint)
    return status


def drained(status: Status, *, undo: bool) -> bool:
    """Whether it is as it was asked to be."""
    if undo:
        return bool(status["status"] == "running")
    return bool(status["status"] == "draining" and status["running"] == 0)


def _status(endpoint: Endpoint) -> Status:
    status = endpoint.status()
    if status is None:
        raise RunqyAgentError(f"no worker answers at {endpoint.address}; is it running, and is that its status.listen?")
    return status
