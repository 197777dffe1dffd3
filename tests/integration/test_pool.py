"""The long-running processes of a queue: distribution, crashes, hangs, recycling, replacing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from process_kit import Stage, command, play, program, recovery
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure, Success, Unstarted
from runqy_agent.process import pool as pool_module
from runqy_agent.process import serving
from runqy_agent.process.pool import Pool
from runqy_agent.process.supervisor import Limits
from task_kit import taken

if TYPE_CHECKING:
    from pathlib import Path

ECHO = program("answer(task, [os.getpid(), payload])")
WAITS = program(
    """
while payload and not os.path.exists(payload):
    time.sleep(0.005)
answer(task, os.getpid())
"""
)


def pid_of(outcome: object) -> int:
    assert isinstance(outcome, Success), outcome
    found = json.loads(outcome.result or b"")
    return int(found[0] if isinstance(found, list) else found)


# Distribution.


def test_tasks_go_to_the_process_with_the_least_to_do(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("slow", json.dumps(str(gate)).encode())])
        for number in range(6):  # one process is busy: all go to the others
            stage.runner.run([taken(f"t{number}", b'""')])
            await stage.outcomes(number + 1)
        gate.touch()
        found = await stage.outcomes(7)
        busy = pid_of(found.pop("slow"))
        assert busy not in {pid_of(outcome) for outcome in found.values()}

    play(Pool("q", recovery()), [command(tmp_path, WAITS)] * 3, scene)


def test_whoever_writes_outcomes_is_woken_by_each_answer(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        at_start = stage.sink.wakes
        for number in range(5):
            stage.runner.run([taken(f"t{number}")])
            await stage.outcomes(number + 1)
            await stage.until(lambda: stage.sink.wakes - at_start >= len(stage.sink.seen), "it is woken")

    play(Pool("q", recovery()), [command(tmp_path, ECHO)], scene)


def test_a_batch_is_spread_over_all_processes(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}") for number in range(40)])
        found = await stage.outcomes(40)
        shares = Counter(pid_of(outcome) for outcome in found.values())
        assert sorted(shares.values()) == [10, 10, 10, 10]
        assert sorted(shares) == sorted(each["pid"] for each in stage.runner.health.processes)

    play(Pool("q", recovery()), [command(tmp_path, ECHO)] * 4, scene)


def test_each_process_sees_its_own_gpu(tmp_path: Path) -> None:
    code = program('answer(task, [os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]])')
    plain = command(tmp_path, code)

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}") for number in range(3)])
        found = await stage.outcomes(3)
        results = [json.loads(outcome.result) for outcome in found.values()]
        assert sorted(result[1] for result in results) == ["0", "1", "GPU-7"]
        assert {result[2] for result in results} == {"PCI_BUS_ID"}
        assert {each["pid"]: each["gpu"] for each in stage.runner.health.processes} == {
            result[0]: result[1] for result in results
        }

    play(Pool("q", recovery()), [plain.on_gpu(gpu) for gpu in ("0", "1", "GPU-7")], scene)


# Crashes.

DIES = program(
    """
if payload == "die":
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)
if payload == "hold":
    time.sleep(3600)
answer(task, os.getpid())
"""
)


def test_a_crash_of_one_process_leaves_the_others_and_their_tasks_alone(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("guilty", b'"die"')])
        assert stage.runner.ready
        found = await stage.outcomes(1)
        assert isinstance(found["guilty"], Failure)
        assert stage.runner.ready  # the other goes on taking tasks
        assert stage.runner.health.state == "recovering"  # and the worker does not claim to be well
        assert stage.runner.health.reason.startswith("1 of 2 processes: the process exited with code 3")
        stage.runner.run([taken(f"t{number}") for number in range(4)])
        found = await stage.outcomes(5)
        assert all(isinstance(found[f"t{number}"], Success) for number in range(4))
        await stage.until(lambda: stage.runner.health.state == "ready", "both are up again")
        assert sum(each["restarts"] for each in stage.runner.health.processes) == 1

    play(Pool("q", recovery()), [command(tmp_path, DIES)] * 2, scene)


def test_the_oldest_unanswered_task_is_blamed_and_the_ones_written_ahead_go_back_in_their_order(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("done"), taken("guilty", b'"die"'), taken("a"), taken("b")])
        await stage.outcomes(4)
        (first, success), (second, failure), *rest = stage.sink.seen
        assert (first, second) == ("done", "guilty")
        assert isinstance(success, Success)
        assert isinstance(failure, Failure)
        assert failure.error == "crashed the process 1 time: the process exited with code 3\nlast words"
        assert failure.retry
        assert rest == [("b", Unstarted()), ("a", Unstarted())]  # the last one put back is the first to be taken

    play(Pool("q", recovery()), [command(tmp_path, DIES)], scene)


def test_all_in_flight_fail_where_that_is_the_rule(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("guilty", b'"die"'), taken("a"), taken("b")])
        found = await stage.outcomes(3)
        assert all(isinstance(outcome, Failure) for outcome in found.values())

    play(Pool("q", recovery(), fail_all=True), [command(tmp_path, DIES)], scene)


def test_a_crash_while_busy_with_a_cancelled_task_is_no_other_tasks_fault(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        over = taken("over", b'"hold"')
        stage.runner.run([over, taken("innocent")])
        stage.runner.abandon(over)
        os.kill(stage.runner.health.processes[0]["pid"], signal.SIGKILL)
        assert await stage.outcomes(1) == {"innocent": Unstarted()}

    play(Pool("q", recovery()), [command(tmp_path, DIES)], scene)


def test_a_task_that_crashes_process_after_process_is_counted_and_given_up(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        message_error = ""
        for crashes in (1, 2, 3):
            await stage.until(lambda: stage.runner.ready, "it is up")
            stage.runner.run([taken("guilty", b'"die"', retry=3, error_msg=message_error)])
            await stage.until(lambda: len(stage.sink.seen) == crashes, "it has crashed")  # noqa: B023 - used at once
            outcome = stage.sink.seen[-1][1]
            assert isinstance(outcome, Failure)
            times = "1 time" if crashes == 1 else f"{crashes} times"
            assert outcome.error.startswith(f"crashed the process {times}: the process exited with code 3")
            assert outcome.retry == (crashes < 3)
            message_error = outcome.error

    play(Pool("q", recovery()), [command(tmp_path, DIES)], scene)


def test_after_too_many_crashes_it_stays_down_and_says_so_until_new_code_comes(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        for number in range(2):
            await stage.until(lambda: stage.runner.ready, "it is up")
            stage.runner.run([taken(f"t{number}", b'"die"')])
            await stage.outcomes(number + 1)
        await stage.until(lambda: stage.runner.health.state == "degraded", "it is given up")
        assert not stage.runner.ready
        assert stage.runner.health.retry_at == 0
        stage.runner.run([taken("late")])
        assert (await stage.outcomes(3))["late"] == Unstarted()
        await stage.runner.replace(command(tmp_path, ECHO, name="new.py"))
        assert stage.runner.health.state == "ready"
        assert stage.runner.health.consecutive_fails == 0

    play(Pool("q", recovery(max_restarts=1)), [command(tmp_path, DIES)], scene)


def test_while_it_waits_for_its_next_start_it_says_when_that_is(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("guilty", b'"die"')])
        await stage.until(lambda: stage.runner.health.state == "recovering", "it has crashed")
        assert 40 < stage.runner.health.retry_at - stage.runner.health.since < 80

    play(Pool("q", recovery(initial_delay=60.0, max_delay=60.0)), [command(tmp_path, DIES)], scene)


def test_one_process_that_does_not_become_ready_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    flag = tmp_path / "repaired"
    once = program("answer(task)", f"if os.environ.get('BAD') and not os.path.exists({str(flag)!r}): sys.exit(9)")
    good = command(tmp_path, once)
    bad = command(tmp_path, once, env={"BAD": "1"})

    async def scene(stage: Stage) -> None:
        assert stage.runner.ready
        assert stage.runner.health.state == "recovering"
        assert "exited with code 9" in stage.runner.health.reason
        flag.touch()
        await stage.until(lambda: stage.runner.health.state == "ready", "the other has come up")

    play(Pool("q", recovery()), [good, bad], scene)


def test_a_pool_of_which_nothing_becomes_ready_fails_to_start(tmp_path: Path) -> None:
    stage_runner = Pool("q", recovery())

    async def scene(_: Stage) -> None:
        raise AssertionError("it cannot have started")

    with pytest.raises(ProcessNotReadyError, match="exited with code 9"):
        play(stage_runner, [command(tmp_path, program(before="sys.exit(9)"))] * 2, scene)


# Recycling.


def test_a_process_is_recycled_after_exactly_so_many_tasks_and_none_is_lost(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        answered: dict[str, int] = {}
        waiting = [taken(f"t{number}") for number in range(23)]
        while waiting:
            await stage.until(lambda: stage.runner.ready, "a process is ready")
            batch, waiting = waiting[:7], waiting[7:]
            already = len(stage.sink.seen)
            stage.runner.run(batch)
            await stage.until(lambda: len(stage.sink.seen) == already + len(batch), "all are accounted for")  # noqa: B023
            for task in reversed(batch):
                outcome = next(found for name, found in reversed(stage.sink.seen) if name == task.id)
                if outcome == Unstarted():
                    waiting.insert(0, task)
                else:
                    answered[task.id] = pid_of(outcome)
        assert len(answered) == 23
        assert sorted(Counter(answered.values()).values()) == [3, 5, 5, 5, 5]
        assert stage.runner.health.total_restarts == 0  # that was no crash

    play(Pool("q", recovery(), limits=Limits(tasks=5)), [command(tmp_path, ECHO)], scene)


def test_only_one_process_is_recycled_at_a_time(tmp_path: Path) -> None:
    least_open = 3

    async def scene(stage: Stage) -> None:
        nonlocal least_open
        stop = asyncio.Event()

        async def look() -> None:
            nonlocal least_open
            while not stop.is_set():
                least_open = min(least_open, sum(each["state"] == "ready" for each in stage.runner.health.processes))
                await asyncio.sleep(0.001)

        looking = asyncio.create_task(look())
        before = {each["pid"] for each in stage.runner.health.processes}
        sent = 0
        while before & {each["pid"] for each in stage.runner.health.processes}:
            assert sent < 1000, "each should have had its turn by now"
            stage.runner.run([taken(f"t{sent}")])
            sent += 1
            await stage.outcomes(sent)
        found = await stage.outcomes(sent)
        assert all(isinstance(outcome, Success) for outcome in found.values())
        stop.set()
        await looking

    play(Pool("q", recovery(), limits=Limits(tasks=8)), [command(tmp_path, ECHO)] * 3, scene)
    assert least_open == 2


def test_a_process_that_uses_too_much_memory_is_recycled_between_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MEMORY_SECONDS", 0.1)
    grows = program("kept = globals().setdefault('kept', []); kept.append(b'x' * payload); answer(task, os.getpid())")

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("small", b"1000")])
        before = pid_of((await stage.outcomes(1))["small"])
        await stage.until(lambda: stage.runner.health.processes[0]["memory"], "it was measured")
        assert stage.runner.health.processes[0]["pid"] == before
        stage.runner.run([taken("large", b"150000000")])
        assert pid_of((await stage.outcomes(2))["large"]) == before
        await stage.until(lambda: stage.runner.health.processes[0]["pid"] not in {0, before}, "it was recycled")
        stage.runner.run([taken("next", b"1000")])
        assert pid_of((await stage.outcomes(3))["next"]) != before

    play(Pool("q", recovery(), limits=Limits(memory=100 * 2**20)), [command(tmp_path, grows)], scene)


# Hung processes.


def test_a_hung_process_is_restarted_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HUNG_GRACE", 0.3)

    async def scene(stage: Stage) -> None:
        over = taken("over", b'"hold"')
        stage.runner.run([over])
        first = {each["pid"] for each in stage.runner.health.processes if each["tasks"]}
        stage.runner.abandon(over)
        stage.runner.run([taken(f"t{number}") for number in range(3)])
        await stage.until(lambda: not first & {each["pid"] for each in stage.runner.health.processes}, "it is gone")
        await stage.until(lambda: stage.runner.health.state == "ready", "another has come")
        again = [name for name, outcome in stage.sink.seen if outcome == Unstarted()]
        stage.runner.run([taken(name) for name in again])
        await stage.until(
            lambda: {name for name, outcome in stage.sink.seen if isinstance(outcome, Success)} == {"t0", "t1", "t2"},
            "all others were done",
        )
        assert "over" not in dict(stage.sink.seen)
        assert stage.runner.health.total_restarts == 0

    play(Pool("q", recovery()), [command(tmp_path, DIES)] * 2, scene)


# Replacing.


def test_new_code_takes_over_while_the_old_finishes_what_it_has(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("slow", json.dumps(str(gate)).encode())])
        old = stage.runner.health.processes[0]["pid"]
        await stage.runner.replace(command(tmp_path, ECHO, name="new.py"))
        stage.runner.run([taken("quick")])
        found = await stage.outcomes(1)
        assert json.loads(found["quick"].result)[1] == {}  # the new code's answer
        gate.touch()
        assert pid_of((await stage.outcomes(2))["slow"]) == old
        await stage.runner.settled()
        with pytest.raises(ProcessLookupError):
            os.kill(old, 0)
        assert stage.runner.health.total_restarts == 0

    play(Pool("q", recovery()), [command(tmp_path, WAITS)], scene)


def test_new_code_that_does_not_become_ready_changes_nothing(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        before = sorted(each["pid"] for each in stage.runner.health.processes)
        with pytest.raises(ProcessNotReadyError, match="exited with code 4"):
            await stage.runner.replace(command(tmp_path, program(before="sys.exit(4)"), name="new.py"))
        assert stage.runner.health.state == "ready"
        assert sorted(each["pid"] for each in stage.runner.health.processes) == before

    play(Pool("q", recovery()), [command(tmp_path, ECHO)] * 2, scene)


def test_if_one_process_of_a_pool_cannot_run_the_new_code_all_go_back(tmp_path: Path) -> None:
    half = program("answer(task, 'new')", "if os.environ['CUDA_VISIBLE_DEVICES'] == '1': sys.exit(4)")

    async def scene(stage: Stage) -> None:
        with pytest.raises(ProcessNotReadyError):
            await stage.runner.replace(command(tmp_path, half, name="new.py"))
        await stage.runner.settled()
        stage.runner.run([taken(f"t{number}") for number in range(6)])
        found = await stage.outcomes(6)
        assert all(json.loads(outcome.result) != "new" for outcome in found.values())
        assert stage.runner.health.state == "ready"

    play(Pool("q", recovery()), [command(tmp_path, ECHO).on_gpu(gpu) for gpu in "01"], scene)


def test_tasks_that_no_process_can_take_go_back_the_oldest_last_to_be_the_first_again(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t0", b'"die"')])
        await stage.outcomes(1)
        assert not stage.runner.ready
        stage.runner.run([taken("a"), taken("b"), taken("c")])
        assert stage.sink.seen[1:] == [("c", Unstarted()), ("b", Unstarted()), ("a", Unstarted())]

    play(Pool("q", recovery(max_restarts=0)), [command(tmp_path, DIES)], scene)
