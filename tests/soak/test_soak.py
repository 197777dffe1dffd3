"""Several agents under random trouble: an account of every task and every run has nothing left over.

SOAK_SECONDS: how long the trouble lasts (60). SOAK_SEED: draws the same tasks and the same trouble again; how the two
meet is up to the machine.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos import accounting, journal
from flaky_proxy import FlakyProxy
from runqy_agent.broker import keys
from runqy_agent.demo.redis_server import RedisServer
from runqy_agent.errors import ExitCode
from soak.account import Account, Verdict
from soak.crew import Crew
from soak.load import QUEUES, SERVED, Load
from soak.trouble import Trouble
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_GROWTH = 60.0
"""MiB that the agent may grow by which lasts: its caches and buffers, and whatever is in flight."""
PATIENCE = 240.0
"""Seconds for tasks to end when the trouble is over."""


class Soak:
    """A stage, trouble, and a load."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.server = RedisServer(arguments=[*journal.ARGUMENTS, "--appendfsync", "no"])
        # Waits for as long as Redis is stopped, and sends nothing twice.
        patient = redis.Redis(port=self.server.port, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        self.stage = Stage(directory, directory / "deployments", self.server.client(), self.server.address)
        self.proxy = FlakyProxy(self.server.port, seed)
        self.runs = directory / "runs"
        program = Path(__file__).with_name("author_program.py").read_text(encoding="utf-8")
        # Without storage of results a retention of 0 is one, and the task leaves Redis.
        shared: dict[str, Any] = {"env_vars": {"RUNS": str(self.runs)}, "redis_storage": False}
        files = {"main.py": program}
        repositories = {
            "serve": self.stage.queue("serve", files, SERVED, **shared),
            "single": self.stage.queue("single", files, mode="one_shot", **shared),
        }
        self.crew = Crew(self.stage, self.proxy.address)
        self.load = Load(patient, random.Random(seed + 1))
        chance = random.Random(seed + 2)
        self.trouble = Trouble(self.crew, self.server, self.proxy, repositories, program, chance)
        self.memory: list[float] = []
        self.exit_codes: dict[int, int] = {}
        self.ended = 0

    def run(self, seconds: float) -> None:
        """Load and trouble, for so long."""
        self.crew.start()
        until_quick = time.monotonic() + min(5.0, seconds / 4)
        end = time.monotonic() + seconds
        while time.monotonic() < until_quick:
            self.load.turn(more=True)
        self.memory.append(self.crew.memory())
        self.trouble.start()
        while time.monotonic() < end and self.trouble.raised is None:
            self.load.turn(more=True)
        self.trouble.stop()
        self.ended = len(self.load.kinds) - self.load.unfinished()

    def finish(self) -> None:
        """No more trouble: agents end, and others find what those that were killed have left."""
        self.memory.append(self.crew.memory())
        self.exit_codes = self.crew.finish()
        for queue in QUEUES:  # nobody is there any more who could hold a lease: it is over by now
            names = keys.queue_keys(queue)
            if held := self.stage.ids(queue, "active"):
                self.stage.redis.zadd(names.lease, dict.fromkeys(held, time.time() - 3600), xx=True)
        last = Crew(self.stage, self.server.address)
        last.start()
        until_over = time.monotonic() + PATIENCE
        while self.load.unfinished() and time.monotonic() < until_over:
            self.load.turn(more=False)
        self.exit_codes |= last.finish()
        self.crew.ended |= last.ended

    def close(self) -> None:
        """End everything."""
        if self.trouble.is_alive():
            with suppress(redis.RedisError):
                self.trouble.stop()
        self.stage.close()
        self.proxy.close()
        self.server.close()


@pytest.fixture
def soak(tmp_path: Path, soak_seed: int) -> Iterator[Soak]:
    soak = Soak(tmp_path, soak_seed)
    yield soak
    soak.close()


def table(soak: Soak, verdict: Verdict, seconds: float) -> str:
    """What was done and what has become of it, for people."""
    kinds = Counter(soak.load.kinds.values())
    lines = [f"{len(soak.load.kinds)} tasks, {soak.ended / seconds:.0f} a second under trouble, {seconds:g} s"]
    lines += [f"  {kind:10} {number:7} tasks {verdict.runs[kind]:7} runs" for kind, number in kinds.most_common()]
    lines += ["trouble:"]
    lines += [f"  {what:26} {number:5}" for what, number in (soak.trouble.counts + soak.proxy.cuts).most_common()]
    lines += ["failures, and what explains them:"]
    lines += [f"  {reason or 'nothing':26} {number:5}" for reason, number in verdict.failures.most_common()]
    begin, end = soak.memory
    lines += [f"memory of the agent that lasted: {begin:.0f} MiB at the beginning, {end:.0f} at the end"]
    counts = {"lost": verdict.lost, "stuck": verdict.stuck, "run twice unexplained": verdict.twice}
    counts |= {"innocent retries": verdict.innocent}
    return "\n".join([*lines, ", ".join(f"{what} {len(found)}" for what, found in counts.items())])


def left_behind(directory: Path) -> list[str]:
    """Processes that still run out of a directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, cwd = " ".join(process.info["cmdline"] or ()), process.info["cwd"] or ""
        if str(directory) in command or cwd.startswith(str(directory)):
            found.append(f"{process.pid}: {command}")
    return found


def test_no_task_is_lost_stuck_run_twice_or_blamed_whatever_goes_wrong(
    soak: Soak, soak_seconds: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soak.run(soak_seconds)
    soak.finish()
    verdict = Account(soak.stage.redis, soak.load, soak.crew, soak.runs).draw_up()
    with capsys.disabled():
        print(f"\n{table(soak, verdict, soak_seconds)}")  # noqa: T201
    assert verdict.faults == []
    assert set(soak.exit_codes.values()) == {0}
    assert set(soak.crew.gave_up) <= {ExitCode.BROKER}, "only one that met trouble when it started may end by itself"
    assert soak.memory[1] - soak.memory[0] < MOST_GROWTH
    until(lambda: not left_behind(tmp_path), "no process is left behind")
    until(lambda: not list(soak.stage.redis.scan_iter("asynq:workers:*")), "the records of killed agents have expired")
    accounting.check_no_phantoms(soak.stage)
