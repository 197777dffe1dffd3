"""``runqy-agent drain``: let a worker finish its tasks and take no new ones, or take them again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runqy_agent.commands.units import must_be_main_process

if TYPE_CHECKING:
    from runqy_agent.commands.endpoint import Endpoint, Status
    from runqy_agent.commands.units import Unit

_LOOK_SECONDS = 0.1


def drain(endpoint: Endpoint, unit: Unit | None, seconds: float, *, undo: bool) -> Status:
    """Ask the worker, and wait until it has nothing in flight, or takes tasks again.

    A worker that is still starting does not heed that: it is asked when it runs.

    Args:
        endpoint: of the worker.
        unit: whose main process the worker must be; None for any.
        seconds: how long to wait.
        undo: take tasks again.

    Returns:
        Its last status. Whether it got there, ``drained`` tells.

    Raises:
        RunqyAgentError: no worker answers, it is another than that of the unit, or it may not be asked.
    """
    deadline = time.monotonic() + seconds
    status = endpoint.must_answer()
    while status["status"] == "bootstrapping" and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        status = endpoint.must_answer()
    if status["status"] == "bootstrapping":
        return status
    if unit is not None:
        must_be_main_process(unit, endpoint.process(status))
    endpoint.act("resume" if undo else "drain")
    while True:  # what it said before it was asked does not count
        time.sleep(_LOOK_SECONDS)
        status = endpoint.must_answer()
        if drained(status, undo=undo) or time.monotonic() > deadline:
            return status


def drained(status: Status, *, undo: bool) -> bool:
    """Whether it is as it was asked to be."""
    if undo:
        return bool(status["status"] == "running")
    return bool(status["status"] == "draining" and status["running"] == 0)
