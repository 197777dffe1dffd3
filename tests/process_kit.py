"""Supervised processes without a worker: small programs that speak the task protocol, and what they answered."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.clock import Clock
from runqy_agent.config.duration import Duration
from runqy_agent.config.settings import RecoverySettings
from runqy_agent.process.command import Command
from runqy_agent.process.recovery import Recovery
from task_kit import Outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from runqy_agent.process.command import Printed
    from runqy_agent.process.one_shot import OneShot
    from runqy_agent.process.pool import Pool

PROGRAM = """
import json, os, sys, threading, time
def say(**fields):
    print(json.dumps(fields), flush=True)
def answer(task, result=None, error=None):
    say(task_id=task["task_id"], result=result, error=error, retry=False)
BEFORE
say(status="ready")
for line in sys.stdin:
    task = json.loads(line)
    payload = task["payload"]
    BODY
"""
"""One task after another; BODY has ``task`` and ``payload``."""

PATIENCE = 60.0


def program(body: str = "answer(task, os.getpid())", before: str = "") -> str:
    """A program that does ``body`` for each task, and ``before`` before it is ready."""
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return PROGRAM.replace("BEFORE", before).replace("    BODY", indented)


def command(directory: Path, code: str, *, name: str = "main.py", **fields: Any) -> Command:
    """How to start such a program. It is written to ``directory``."""
    (directory / name).write_text(code)
    fields.setdefault("startup_timeout", PATIENCE)
    return Command((sys.executable, name), directory, fields.pop("env", {"PATH": "/usr/bin:/bin"}), label="q", **fields)


def recovery(**settings: Any) -> Callable[[], Recovery]:
    """Recovery that is quick."""
    made = RecoverySettings(initial_delay=Duration(0.02), max_delay=Duration(0.1), max_restarts=1000)
    for name, value in settings.items():
        setattr(made, name, value)
    return lambda: Recovery(made, Clock())


class Stage:
    """A runner in a running event loop, with a sink that remembers."""

    def __init__(self, runner: Pool | OneShot, commands: Sequence[Command]) -> None:
        self.runner = runner
        self.sink = Outcomes()
        runner.attach(self.sink)
        runner.use(commands)

    async def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """Wait for a condition, looking again and again; return what it gave."""
        deadline = time.monotonic() + patience
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {patience:g} s in vain: {what}; {self.sink.seen!r:.2000}"
            await asyncio.sleep(0.005)
        return value

    async def outcomes(self, count: int, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait for so many outcomes in all; return them by task."""
        await self.until(lambda: len(self.sink.seen) >= count, f"{count} outcomes", patience)
        return dict(self.sink.seen)

    async def play(self, scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        """Start the runner, play a scene, stop it."""
        await self.runner.start()
        watch = asyncio.create_task(self.runner.watch())
        acting = asyncio.create_task(scene(self))
        try:
            await asyncio.wait([watch, acting], return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                acting.cancel()
                watch.result()  # it must not have ended
            await acting
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self.runner.stop()


def play(
    runner: Pool | OneShot,
    commands: Sequence[Command],
    scene: Callable[[Stage], Coroutine[Any, Any, None]],
    *,
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """A whole scene, in a new event loop. ``run`` makes that loop."""

    async def main() -> None:
        await Stage(runner, commands).play(scene)

    run(main())


def on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, which the role installs."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(main)


on_each_loop = pytest.mark.parametrize("run", [asyncio.run, on_uvloop], ids=["asyncio", "uvloop"])


class Author:
    """A program, and what it has printed as far as the agent saw."""

    def __init__(self, directory: Path, code: str, **fields: Any) -> None:
        self.printed: list[Printed] = []
        self.command = command(directory, code, on_print=self.printed.append, **fields)

    def texts(self, source: str = "stdout") -> list[str]:
        """Its lines on one of its outputs."""
        return [line.text for line in self.printed if line.source == source]
