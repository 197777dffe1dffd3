"""What the demo says: where things are, how tasks ended, and how to go on from there."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.demo.scenario import HIGH, LOW, THUMBNAILS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.demo.client import TaskInfo
    from runqy_agent.demo.scenario import Job
    from runqy_agent.demo.stage import Stage
    from runqy_agent.demo.terminal import Terminal

_HEADS = ("task", "queue", "state", "result or error", "time")
_ORDER = ("completed", "archived", "active", "pending", "retry")


@dataclass(frozen=True)
class Ending:
    """How a task ended, or how it stands when nobody waits any longer.

    Attributes:
        info: None if it is not in Redis.
        seconds: from being enqueued to being seen at its end.
    """

    job: Job
    info: TaskInfo | None
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether it is what the demo is meant to show."""
        return self.info is not None and self.job.as_expected(self.info)


def opening(stage: Stage, terminal: Terminal) -> None:
    """Say what is used, and where it is."""
    terminal.say(
        f"Redis         {stage.redis.kind}, port {stage.redis.port}\n"
        f"server        {stage.server.url}, a stand-in for the runqy server\n"
        f"repository    {stage.repository.url}\n"
        f"environments  {stage.deployments}\n"
        f"worker's log  {stage.log}\n"
    )


def progress(states: Counter[str], seconds: float) -> str:
    """The live line."""
    total = sum(states.values())
    ended = states["completed"] + states["archived"]
    return (
        f"{ended} of {total} tasks ended, {states['active']} running, {states['pending']} waiting, "
        f"{states['retry']} to be retried, {seconds:.0f} s"
    )


def table(endings: Sequence[Ending], terminal: Terminal) -> None:
    """All tasks, in the order in which they ended."""
    terminal.table(_HEADS, [_row(ending) for ending in endings], elastic=_HEADS.index("result or error"))


def _row(ending: Ending) -> tuple[str, ...]:
    info, message = ending.info, ending.job.message
    if info is None:
        state, outcome = "gone", ""
    else:
        retried = info.message.retried
        state = f"{info.state}, attempt {retried + 1}" if retried else info.state
        outcome = (info.result or b"").decode(errors="replace") or _gist(info.message.error_msg)
    if not ending.as_expected:
        outcome = f"UNEXPECTED: {outcome}"
    return message.id, message.queue, state, outcome, f"{ending.seconds:.1f} s"


def _gist(error: str) -> str:
    """What went wrong, in a line: a traceback says so in its last one, everybody else in the first."""
    lines = [line for line in error.splitlines() if line.strip()] or [""]
    return lines[-1 if lines[0].startswith("Traceback ") else 0]


def summary(endings: Sequence[Ending]) -> str:
    """One line about all of them."""
    states = Counter(ending.info.state if ending.info else "gone" for ending in endings)
    retried = sum(1 for ending in endings if ending.info and ending.info.message.retried)
    counts = ", ".join(f"{states[state]} {state}" for state in (*_ORDER, "gone") if states[state])
    wrong = sum(not ending.as_expected for ending in endings)
    verdict = f"{wrong} NOT as expected" if wrong else "all as expected"
    seconds = max(ending.seconds for ending in endings)
    return f"{len(endings)} tasks in {seconds:.1f} s: {counts}; {retried} of them retried; {verdict}"


def invitation(stage: Stage) -> str:
    """The commands to talk to what is left running."""
    port, url, key = stage.redis.port, stage.server.url, stage.server.api_key
    python = shlex.quote(sys.executable)
    return f"""
All of it stays up until Ctrl-C. In another terminal:

  # put a task into a queue ({HIGH}, {LOW} or {THUMBNAILS}), and see what becomes of it
  {python} - <<'END'
  import time
  from redis import Redis
  from runqy_agent.demo.client import TaskClient
  tasks = TaskClient(Redis(port={port}))
  task_id = tasks.enqueue("{HIGH}", b'{{"text": "Great, and friendly"}}')
  time.sleep(1)
  print(tasks.info("{HIGH}", task_id))
  END

  # look into Redis
  redis-cli -p {port} smembers asynq:queues
  redis-cli -p {port} hgetall 'asynq:{{{HIGH}}}:t:review-high-01'

  # ask the server what it tells a worker
  curl -H 'Authorization: Bearer {key}' -d '{{"queue": "inference"}}' {url}/worker/register

  # start a second worker
  RUNQY_SERVER_URL={url} RUNQY_API_KEY={key} RUNQY_QUEUES=inference \\
    RUNQY_DEPLOYMENT_DIR={shlex.quote(str(stage.deployments))} {python} -m runqy_agent run

  # follow the log
  tail -f {shlex.quote(str(stage.log))}
"""
