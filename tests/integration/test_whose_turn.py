"""What a process is at, with real processes: what is over before it is written, answers that come too early or late."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from process_kit import Stage, command, play, program, recovery
from runqy_agent.clock import monotonic
from runqy_agent.outcome import Failure, Success
from runqy_agent.process import serving
from runqy_agent.process.one_shot import OneShot
from runqy_agent.process.pool import Pool
from task_kit import taken

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask

WAITS = """
while payload and not os.path.exists(payload):
    time.sleep(0.005)
answer(task, task["payload"])
"""
"""Runs until the file that is its payload exists."""

GUESSES = """
if payload == "guess":
    answer({"task_id": "ahead"}, "a guess")
    while not os.path.exists("go"):
        time.sleep(0.005)
answer(task, "read")
"""
"""Answers a task that it has not been given."""


def timed(task_id: str, payload: str = "", *, timeout: int = 600, deadline: float = math.inf) -> TakenTask:
    task = taken(task_id, json.dumps(payload).encode())
    task.timeout, task.deadline = timeout, deadline
    return task


def touch(gate: str) -> None:
    Path(gate).touch()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HUNG_GRACE", 60.0)


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_what_is_over_before_it_is_written_is_not_run(tmp_path: Path, mode: str) -> None:
    noting = program("open('runs', 'a').write(task['task_id'] + chr(10))\nanswer(task)\nif ONCE: break")
    code = noting.replace("ONCE", str(mode == "one_shot"))
    runner = Pool("q", recovery()) if mode == "long_running" else OneShot("q", recovery()())

    async def scene(stage: Stage) -> None:
        stage.runner.run([timed("good"), timed("over", deadline=monotonic() - 1), timed("negative", timeout=-1)])
        stage.runner.run([timed("last")])
        found = await stage.outcomes(4)
        for task_id in ("over", "negative"):
            assert found[task_id] == Failure("context deadline exceeded: it was over before the run began")
        assert [isinstance(found[task_id], Success) for task_id in ("good", "last")] == [True, True]

    play(runner, [command(tmp_path, code)], scene)
    assert sorted((tmp_path / "runs").read_text().split()) == ["good", "last"]


def test_an_answer_to_what_a_process_was_not_given_yet_is_dropped(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        # The second one fills the pipe, so the third is not written while the process does not read.
        big, ahead = timed("big", "x" * 1_000_000), timed("ahead")
        stage.runner.run([timed("first", "guess")])
        stage.runner.run([big, ahead])
        await stage.until(lambda: stage.runner.health.dropped_responses == 1, "the guess is dropped")
        assert (ahead.written_at, ahead.began_at) == (0.0, 0.0)
        assert stage.sink.seen == []
        (tmp_path / "go").touch()
        found = await stage.outcomes(3)
        assert found["ahead"] == Success(b'"read"')
        assert ahead.began_at >= big.began_at > 0

    play(Pool("q", recovery()), [command(tmp_path, program(GUESSES))], scene)


def test_the_late_answer_to_a_task_that_is_over_is_no_answer_to_its_next_attempt(tmp_path: Path) -> None:
    gates = [str(tmp_path / f"gate-{number}") for number in range(3)]

    async def scene(stage: Stage) -> None:
        long, first, second = timed("long", gates[0]), timed("same", gates[1]), timed("same", gates[2])
        stage.runner.run([long, first])
        stage.runner.abandon(first)
        stage.runner.run([second])
        assert second.written_at == 0.0
        for gate in gates[:2]:
            touch(gate)
        await stage.until(lambda: second.began_at, "its turn has come")
        assert stage.runner.health.dropped_responses == 1
        assert [task_id for task_id, _ in stage.sink.seen] == ["long"]
        touch(gates[2])
        found = await stage.outcomes(2)
        assert found["same"] == Success(json.dumps(gates[2]).encode())

    play(Pool("q", recovery()), [command(tmp_path, program(WAITS))], scene)


def test_what_is_over_still_has_its_turn_and_the_next_begins_after_it(tmp_path: Path) -> None:
    gates = [str(tmp_path / f"gate-{number}") for number in range(3)]

    async def scene(stage: Stage) -> None:
        over, behind, last = timed("over", gates[0]), timed("behind", gates[1]), timed("last", gates[2])
        stage.runner.run([over, behind, last])
        stage.runner.abandon(over)
        assert (over.began_at > 0, behind.began_at, last.began_at) == (True, 0.0, 0.0)
        touch(gates[0])
        await stage.until(lambda: behind.began_at, "what is over was answered after all")
        assert last.began_at == 0.0  # it has answered in order all the same
        for gate in gates[1:]:
            touch(gate)
        await stage.outcomes(2)
        assert last.began_at > behind.began_at

    play(Pool("q", recovery()), [command(tmp_path, program(WAITS))], scene)


def test_a_new_process_begins_in_order_again(tmp_path: Path) -> None:
    body = """
if payload == "die":
    os._exit(3)
if payload == "hold":
    held = task
elif payload == "release":
    answer(task)
    answer(held)
else:
    while payload and not os.path.exists(payload):
        time.sleep(0.005)
    answer(task)
"""
    gate = str(tmp_path / "gate")

    async def scene(stage: Stage) -> None:
        stage.runner.run([timed("held", "hold"), timed("released", "release")])
        await stage.outcomes(2)
        beside = [timed("a", gate), timed("b")]
        stage.runner.run(beside)
        assert all(task.began_at for task in beside)  # it has answered out of order
        touch(gate)
        await stage.outcomes(4)
        (tmp_path / "gate").unlink()
        stage.runner.run([timed("crash", "die")])
        await stage.outcomes(5)
        await stage.until(lambda: stage.runner.ready, "another process is ready")
        after = [timed("c", gate), timed("d")]
        stage.runner.run(after)
        assert [bool(task.began_at) for task in after] == [True, False]
        touch(gate)
        await stage.outcomes(7)

    play(Pool("q", recovery()), [command(tmp_path, program(body))], scene)
