"""``runqy-agent redeploy``: let a worker go over to new code, and tell what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runqy_agent.commands.units import must_be_main_process
from runqy_agent.errors import RunqyAgentError

if TYPE_CHECKING:
    from runqy_agent.commands.endpoint import Endpoint, Status
    from runqy_agent.commands.units import Unit

_LOOK_SECONDS = 0.1
_SHORT = 12


def redeploy(endpoint: Endpoint, unit: Unit | None, seconds: float) -> tuple[Status, bool]:
    """Ask the worker, and wait until the redeployment that this asked for has ended.

    A worker that is still starting does not heed that: it is asked when it runs. One that is redeploying already
    does it once more, without a pause between the two.

    Args:
        endpoint: of the worker.
        unit: whose main process the worker must be; None for any.
        seconds: how long to wait; 0 only asks.

    Returns:
        Its last status, and whether the redeployment has ended.

    Raises:
        RunqyAgentError: no worker answers, it is another than that of the unit, it may not be asked, it has nothing to
            redeploy, or it ended meanwhile.
    """
    deadline = time.monotonic() + seconds
    before = endpoint.must_answer()
    while before["status"] == "bootstrapping":
        if time.monotonic() > deadline:
            raise RunqyAgentError("the worker is still starting: it deploys the newest code anyway")
        time.sleep(_LOOK_SECONDS)
        before = endpoint.must_answer()
    if before["status"] not in {"running", "draining"}:
        raise RunqyAgentError(f"the worker is {before['status']}: there is nothing to redeploy")
    if not before.get("redeploy"):
        raise RunqyAgentError(f"the worker (version {before['version']}) does not redeploy; restart it instead")
    if unit is not None:
        must_be_main_process(unit, endpoint.process(before))
    before = endpoint.act("redeploy")
    if not seconds:
        return before, False
    while True:  # what it said before it was asked does not count
        time.sleep(_LOOK_SECONDS)
        status = endpoint.must_answer()
        if status["worker_id"] != before["worker_id"]:
            raise RunqyAgentError("the worker was restarted meanwhile: it has deployed anew; see `runqy-agent status`")
        progress = status["redeploy"]
        ended = progress["number"] > before["redeploy"]["number"] and not progress["running"]
        if ended or time.monotonic() > deadline:
            return status, ended


def all_well(status: Status) -> bool:
    """Whether every parent queue serves what it should, and nothing waits for a restart."""
    results = status["redeploy"]["results"].values()
    return all(each["outcome"] != "failed" and not each["reason"] for each in results) and not restart_needs(status)


def restart_needs(status: Status) -> list[str]:
    """What has changed that only a restart brings into effect. A worker of an older version does not tell."""
    needs: list[str] = status["redeploy"].get("restart", [])
    return needs


def in_lines(status: Status) -> list[str]:
    """What came of it, a line for each parent queue, and for each thing that needs a restart."""
    lines = [
        f"{queue}: {each['outcome']}, commit {each['commit'][:_SHORT]} serves"
        + (f": {each['reason']}" if each["reason"] else "")
        for queue, each in status["redeploy"]["results"].items()
    ]
    return lines + [f"restart the worker to bring this into effect: {need}" for need in restart_needs(status)]
