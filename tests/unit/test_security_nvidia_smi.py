"""An nvidia-smi that hangs, as it does with a driver in trouble, holds nothing up. All of these are real programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.reporting import metrics
from set_clock import SetClock
from task_kit import NOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 110.0
"""Seconds, for a machine that stands still for a while."""
CARD = "0, Tesla T4, 5, 10, 15360, 40"
IGNORES_SIGNALS = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
"""
# Killed, it still does not end for whoever reads its output: that stays open in a process that no signal reaches.
CANNOT_BE_KILLED = """
import os, time
if os.fork() == 0:
    os.setsid()
    with open(f"{home}/holders", "a") as file:
        file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""
FLOODS = "while True: print('x' * 10000)"
ANSWERS = f"print({CARD!r})"


class Host:
    """A host with this nvidia-smi on its PATH."""

    def __init__(self, home: Path, code: str) -> None:
        self.home = home
        program = home / "nvidia-smi"
        program.write_text(
            f"#!{sys.executable}\nimport os\nhome = {str(home)!r}\n"
            f"with open(f'{{home}}/started', 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n{code}\n",
            encoding="utf-8",
        )
        program.chmod(0o755)

    def pids(self, name: str = "started") -> list[int]:
        path = self.home / name
        return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []

    def close(self) -> None:
        for pid in [*self.pids(), *self.pids("holders")]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "GPU_TIMEOUT", 1.0)
    monkeypatch.setattr(metrics, "GPU_PATIENCE", 0.05)


def host(home: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    return Host(home, code)


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain"
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", [IGNORES_SIGNALS, CANNOT_BE_KILLED], ids=["ignores signals", "cannot be killed"])
def test_a_hanging_nvidia_smi_delays_no_reading_and_is_not_started_twice(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = host(tmp_path, code, monkeypatch)
    clock = SetClock(NOW)
    if code is IGNORES_SIGNALS:
        monkeypatch.setattr(metrics, "GPU_TIMEOUT", 1000.0)  # it would be killed then; here it hangs

    async def read_for_a_while() -> None:
        reader = metrics.HostMetrics(clock)

        def hangs() -> bool:
            """Whether it will not end by itself, and not when it is killed either where it cannot be."""
            return len(fake.pids("holders")) > len(ended) if code is CANNOT_BE_KILLED else bool(fake.pids())

        async def read() -> None:
            clock.advance(metrics.GPU_INTERVAL)
            assert json.loads(await reader.read())["gpus"] == []

        async def read_until_it_hangs() -> asyncio.Task[None]:
            """On a slow machine it may be killed before it has come that far; then the next reading starts another."""
            while not hangs():
                await read()
                await asyncio.sleep(0.01)
            assert reader._query is not None
            return reader._query

        ended: list[int] = []
        for _ in range(2):
            query = await asyncio.wait_for(read_until_it_hangs(), PATIENCE)
            started = len(fake.pids())
            for _ in range(20):
                await read()
                assert not query.done()  # so the reading has not waited for it
                assert reader._query is query
            assert len(fake.pids()) == started
            ended = fake.pids("holders")
            fake.close()  # now it ends, and the next reading asks a new one
            await until(query.done)
            (tmp_path / "started").unlink()

    try:
        asyncio.run(read_for_a_while())
    finally:
        fake.close()


@pytest.mark.usefixtures("quick")
def test_an_nvidia_smi_without_an_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host(tmp_path, IGNORES_SIGNALS, monkeypatch)

    async def read_once() -> None:
        reader = metrics.HostMetrics(SetClock(NOW))
        await reader.read()
        assert reader._query is not None
        await asyncio.wait_for(reader._query, PATIENCE)

    asyncio.run(read_once())
    (pid,) = fake.pids()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.usefixtures("quick")
def test_a_program_that_prints_without_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host(tmp_path, FLOODS, monkeypatch)

    async def read_once() -> str:
        reader = metrics.HostMetrics(SetClock(NOW))
        await reader.read()
        assert reader._query is not None
        await asyncio.wait_for(reader._query, PATIENCE)
        return await reader.read()

    tracemalloc.start()
    try:
        assert json.loads(asyncio.run(read_once()))["gpus"] == []
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # it prints that much in a fraction of its second
    finally:
        tracemalloc.stop()
    (pid,) = fake.pids()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_nvidia_smi_that_answers_is_in_the_same_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path, ANSWERS, monkeypatch)
    monkeypatch.setattr(metrics, "GPU_PATIENCE", 30.0)

    async def read_once() -> str:
        return await metrics.HostMetrics(SetClock(NOW)).read()

    (card,) = json.loads(asyncio.run(read_once()))["gpus"]
    assert (card["name"], card["memory_total_mb"]) == ("Tesla T4", 15360.0)
