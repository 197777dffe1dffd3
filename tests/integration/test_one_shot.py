"""A process for each task, and spares that are ready before their task comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from process_kit import Stage, command, play, program, recovery
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure, Success, Unstarted
from runqy_agent.process import one_shot
from runqy_agent.process.one_shot import OneShot
from task_kit import taken

if TYPE_CHECKING:
    from pathlib import Path

ONCE = program(
    """
if payload == "die":
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)
if isinstance(payload, str):
    while not os.path.exists(payload):
        time.sleep(0.005)
answer(task, os.getpid())
break
"""
)


def make(*, prestart: int = 1, **settings: float) -> OneShot:
    return OneShot("q", recovery(**settings)(), prestart=prestart)


def pid_of(outcome: object) -> int:
    assert isinstance(outcome, Success), outcome
    return int(json.loads(outcome.result or b""))


def spares(stage: Stage) -> list[int]:
    """The processes that are ready and wait for a task."""
    return [each["pid"] for each in stage.runner.health.processes if each["state"] == "ready" and not each["tasks"]]


def test_each_task_has_a_process_of_its_own_that_was_ready_before(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        used: list[int] = []
        for number in range(6):
            [spare] = await stage.until(lambda: spares(stage), "a spare is ready")
            stage.runner.run([taken(f"t{number}")])
            used.append(pid_of((await stage.outcomes(number + 1))[f"t{number}"]))
            assert used[-1] == spare
        assert len(set(used)) == 6

    play(make(), [command(tmp_path, ONCE)], scene)


@pytest.mark.parametrize("prestart", [0, 3])
def test_so_many_are_kept_ready_and_none_is_left_in_the_end(tmp_path: Path, prestart: int) -> None:
    runner = make(prestart=prestart)

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("first")])  # it gets the process with which the start was tried
        await stage.outcomes(1)
        await stage.until(lambda: len(spares(stage)) == prestart, "the spares are ready")
        stage.runner.run([taken(f"t{number}") for number in range(5)])
        found = await stage.outcomes(6)
        assert len({pid_of(outcome) for outcome in found.values()}) == 6
        await stage.until(lambda: len(spares(stage)) == prestart, "there are as many again")
        await stage.until(lambda: len(runner.health.processes) == prestart, "those that were used are gone")

    play(runner, [command(tmp_path, ONCE)], scene)
    assert [child for child in psutil.Process().children() if "main.py" in child.cmdline()] == []


def test_where_memory_is_short_no_spare_is_started_and_tasks_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shot, "available_memory", lambda: one_shot.LEAST_MEMORY - 1)

    async def scene(stage: Stage) -> None:
        for number in range(3):
            stage.runner.run([taken(f"t{number}")])
            await stage.outcomes(number + 1)
            await stage.until(lambda: not stage.runner.health.processes, "its process has ended")
        assert all(isinstance(outcome, Success) for outcome in dict(stage.sink.seen).values())

    play(make(), [command(tmp_path, ONCE)], scene)


def test_a_crash_fails_its_own_task_alone(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("slow", json.dumps(str(gate)).encode()), taken("guilty", b'"die"')])
        failure = (await stage.outcomes(1))["guilty"]
        assert isinstance(failure, Failure)
        assert failure.error == "crashed the process 1 time: the process exited with code 3\nlast words"
        assert stage.runner.ready  # the next task's process has nothing to do with this one
        gate.touch()
        assert isinstance((await stage.outcomes(2))["slow"], Success)

    play(make(), [command(tmp_path, ONCE)], scene)


def test_a_task_that_is_over_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    # Without its environment it bears no mark: it is found by its group alone.
    body = """
import subprocess
code = "import time; print('runs', flush=True); time.sleep(3600)"
child = subprocess.Popen([sys.executable, "-c", code], env={}, stdout=subprocess.PIPE)
child.stdout.readline()
open(payload, "w").write(str(child.pid))
time.sleep(3600)
"""
    marker = tmp_path / "pid"

    async def scene(stage: Stage) -> None:
        over = taken("over", json.dumps(str(marker)).encode())
        stage.runner.run([over])
        child = int(await stage.until(lambda: marker.exists() and marker.read_text(), "it runs"))
        [pid] = [each["pid"] for each in stage.runner.health.processes if each["tasks"]]
        stage.runner.abandon(over)
        await stage.until(lambda: not runs(pid) and not runs(child), "both are gone")
        assert "over" not in dict(stage.sink.seen)

    play(make(), [command(tmp_path, program(body))], scene)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_does_not_become_ready_is_no_tasks_fault_and_is_tried_again(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    code = ONCE.replace("say(status", f"os.path.exists({str(flag)!r}) and sys.exit(9)\nsay(status", 1)

    async def scene(stage: Stage) -> None:
        flag.touch()
        stage.runner.run([taken("first")])  # with the process that was ready before it broke
        await stage.outcomes(1)
        stage.runner.run([taken("second")])
        assert (await stage.outcomes(2))["second"] == Unstarted()
        await stage.until(lambda: stage.runner.health.state == "recovering", "it says so")
        assert not stage.runner.ready
        assert "exited with code 9" in stage.runner.health.reason
        flag.unlink()
        await stage.until(lambda: stage.runner.ready, "it has recovered")
        stage.runner.run([taken("third")])
        assert isinstance((await stage.outcomes(3))["third"], Success)

    play(make(), [command(tmp_path, code)], scene)


def test_a_spare_that_has_died_while_it_waited_gets_no_task(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        [spare] = await stage.until(lambda: spares(stage), "a spare is ready")
        os.kill(spare, signal.SIGKILL)
        await stage.until(lambda: spare not in spares(stage), "its end is noticed")
        stage.runner.run([taken("a")])
        assert pid_of((await stage.outcomes(1))["a"]) != spare

    play(make(), [command(tmp_path, ONCE)], scene)


def test_code_that_cannot_start_at_all_fails_the_start(tmp_path: Path) -> None:
    async def scene(_: Stage) -> None:
        raise AssertionError("it cannot have started")

    with pytest.raises(ProcessNotReadyError, match="exited with code 9"):
        play(make(), [command(tmp_path, program(before="sys.exit(9)"))], scene)


def test_new_code_runs_every_task_from_then_on_and_old_spares_are_dropped(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("slow", json.dumps(str(gate)).encode())])
        await stage.until(lambda: any(each["tasks"] for each in stage.runner.health.processes), "it runs")
        [spare] = await stage.until(lambda: spares(stage), "a spare of the old code is ready")
        new = command(tmp_path, ONCE.replace("os.getpid())", "-1)"), name="new.py")
        assert isinstance(stage.runner, OneShot)
        await stage.runner.replace(new)
        stage.runner.run([taken("quick")])
        assert pid_of((await stage.outcomes(1))["quick"]) == -1
        await stage.until(lambda: not psutil.pid_exists(spare), "the old spare is gone")
        gate.touch()
        assert pid_of((await stage.outcomes(2))["slow"]) > 0
        await asyncio.wait_for(stage.runner.settled(), 60)
        with pytest.raises(ProcessNotReadyError):
            await stage.runner.replace(command(tmp_path, program(before="sys.exit(9)"), name="bad.py"))
        stage.runner.run([taken("still")])
        assert pid_of((await stage.outcomes(3))["still"]) == -1

    play(make(), [command(tmp_path, ONCE)], scene)


def test_tasks_are_spread_over_the_gpus(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = ONCE.replace("answer(task, os.getpid())", 'answer(task, os.environ["CUDA_VISIBLE_DEVICES"])')
    each = [command(tmp_path, code).on_gpu(gpu) for gpu in "01"]

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}", json.dumps(str(gate)).encode()) for number in range(4)])
        await stage.until(lambda: sum(bool(one["tasks"]) for one in stage.runner.health.processes) == 4, "all run")
        gate.touch()
        found = await stage.outcomes(4)
        results = [outcome.result for outcome in found.values() if isinstance(outcome, Success)]
        assert Counter(results) == {b'"0"': 2, b'"1"': 2}

    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None
    play(make(prestart=0), each, scene)
