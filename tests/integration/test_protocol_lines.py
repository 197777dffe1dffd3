"""What a real process writes beside its answers: nothing of it is taken for an answer, and no answer is lost in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from process_kit import Author, Stage, play, program, recovery
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure, Success
from runqy_agent.process.one_shot import OneShot
from runqy_agent.process.pool import Pool
from task_kit import taken

if TYPE_CHECKING:
    from pathlib import Path


def runner(mode: str) -> Pool | OneShot:
    return Pool("q", recovery()) if mode == "long_running" else OneShot("q", recovery()())


both_modes = pytest.mark.parametrize("mode", ["long_running", "one_shot"])


@both_modes
def test_what_the_author_logs_about_ids_of_their_own_is_printing(tmp_path: Path, mode: str) -> None:
    lines = [
        '{"task_id":"upload-17","result":1}',
        '{"task_id":"upload-17","error":"no such bucket","level":"warning"}',
        '{"task_id":"t1","level":"info"}',
        '{"event":"working","task":{"task_id":"t1","result":1}}',
        '{"status":"ready"}',
        '{"status":"error","error":"not of the start any more"}',
        "just text",
    ]
    author = Author(tmp_path, program(f"for line in {lines!r}: print(line, flush=True)\nanswer(task, 42)"))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        assert await stage.outcomes(1) == {"t1": Success(b"42")}
        dropped = "dropped an answer to task 'upload-17', which is not in flight: "
        assert author.texts() == [dropped + lines[0], dropped + lines[1], *lines[2:]]
        assert stage.runner.health.dropped_responses == 2
        assert [outcome for _, outcome in stage.sink.seen] == [Success(b"42")]

    play(runner(mode), [author.command], scene)


@both_modes
def test_what_a_library_says_at_import_is_not_how_the_start_went(tmp_path: Path, mode: str) -> None:
    lines = [
        '{"status":"error","code":404}',
        '{"status":"error"}',
        '{"status":"ready","service":"x"}',
        '{"task_id":"t1","result":"too early"}',
    ]
    gate = tmp_path / "gate"
    waits = (
        f"for line in {lines!r}: print(line, flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.005)"
    )
    author = Author(tmp_path, program("answer(task, 42)", waits))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        assert await stage.outcomes(1) == {"t1": Success(b"42")}

    async def open_gate(stage: Stage) -> None:
        await stage.until(lambda: len(author.texts()) >= len(lines), "all is printed")
        assert all(each["state"] != "ready" for each in stage.runner.health.processes)
        gate.touch()

    async def main() -> None:
        stage = Stage(runner(mode), [author.command])
        await asyncio.gather(stage.play(scene), open_gate(stage))

    asyncio.run(main())
    assert author.texts()[:3] == lines[:3]


def test_a_process_that_says_why_it_cannot_start_is_quoted(tmp_path: Path) -> None:
    author = Author(tmp_path, program(before='say(status="error", error="no model"); time.sleep(3600)'))
    with pytest.raises(ProcessNotReadyError, match="failed to start: no model"):
        play(Pool("q", recovery()), [author.command], lambda stage: stage.until(lambda: True, "never"))


GLUE = {
    "a descriptor": 'os.write(1, b"x")',
    "a child of the process": 'import subprocess; subprocess.run(["printf", "x"])',
    "a progress bar": 'sys.__stdout__.write("\\r 10%\\r100%"); sys.__stdout__.flush()',
    "colours and braces": "os.write(1, b\"\\x1b[1m{'a': {}}\")",
    "half a character": 'os.write(1, b"\\xc3")',
    "a megabyte": 'os.write(1, b"x" * 2**20)',
    "JSON": 'os.write(1, b\'{"level":"info","task_id":"t1"}\')',
}


@both_modes
@pytest.mark.parametrize("how", GLUE)
def test_an_answer_behind_output_without_a_line_break_is_found(tmp_path: Path, mode: str, how: str) -> None:
    author = Author(tmp_path, program(f"{GLUE[how]}\nanswer(task, 42)"))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        assert await stage.outcomes(1) == {"t1": Success(b"42")}
        assert len(author.texts()) == 1
        assert "task_id" not in author.texts()[0] or how == "JSON"
        assert "result" not in author.texts()[0]

    play(runner(mode), [author.command], scene)


def test_answers_that_threads_write_into_one_line_are_all_found(tmp_path: Path) -> None:
    code = program(
        """
waiting = globals().setdefault("waiting", [])
waiting.append(json.dumps({"task_id": task["task_id"], "result": payload}))
if len(waiting) == 3:
    print("x" + "".join(waiting), flush=True)
"""
    )
    author = Author(tmp_path, code)

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}", b"%d" % number) for number in range(3)])
        assert await stage.outcomes(3) == {f"t{number}": Success(b"%d" % number) for number in range(3)}
        assert [task for task, _ in stage.sink.seen] == ["t0", "t1", "t2"]
        assert author.texts() == ["x"]

    play(Pool("q", recovery()), [author.command], scene)


def test_the_late_answer_to_a_task_that_is_over_is_noticed_behind_other_output_too(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"""
if payload == "first":
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.005)
    os.write(1, b"x")
answer(task, os.getpid())
"""
    author = Author(tmp_path, program(body))

    async def scene(stage: Stage) -> None:
        first = taken("t1", b'"first"')
        stage.runner.run([first, taken("t2", b'"second"')])
        stage.runner.abandon(first)
        gate.touch()
        found = await stage.outcomes(1)
        assert list(found) == ["t2"]
        assert stage.runner.health.dropped_responses == 1
        assert author.texts()[0] == "x"
        assert author.texts()[1].startswith("dropped an answer to task 't1', which is not in flight: {")
        (process,) = stage.runner.health.processes
        assert process["tasks"] == 0  # it is not taken to be still busy

    play(Pool("q", recovery()), [author.command], scene)


def test_an_empty_error_is_success_and_a_line_that_tells_progress_is_not_printed(tmp_path: Path) -> None:
    body = """
say(task_id=task["task_id"], progress=0.5, message="half")
say(task_id="other", progress=0.5)
say(task_id=task["task_id"], error="", retry=False)
"""
    author = Author(tmp_path, program(body))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        assert await stage.outcomes(1) == {"t1": Success(None)}
        assert author.texts() == ['{"task_id": "other", "progress": 0.5}']

    play(Pool("q", recovery()), [author.command], scene)


def test_a_line_over_the_limit_is_the_error_of_its_task_or_else_printing(tmp_path: Path) -> None:
    body = """
print("y" * 5000, flush=True)
print('{"more": {"task_id": "%s", "x": "%s"}}' % (task["task_id"], "y" * 5000), flush=True)
os.write(1, b"x")
answer(task, "y" * 5000)
"""
    author = Author(tmp_path, program(body), max_message_bytes=1000)

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert "longer than worker.max_message_bytes (1000)" in outcome.error
        assert not outcome.retry

    play(Pool("q", recovery()), [author.command], scene)
    assert len(author.texts()) == 2
    assert author.texts()[0] == "y" * 4096 + " … (5000 bytes in all)"
    assert author.texts()[1].endswith(" bytes in all)")


def test_no_secret_is_left_in_errors_and_printing(tmp_path: Path) -> None:
    def redact(text: str) -> str:
        return text.replace("hush", "***")

    body = """
print("print hush", flush=True)
print("error hush", file=sys.stderr, flush=True)
os.write(1, b"glue hush")
answer(task, error="answer hush") if payload == 1 else os._exit(3)
"""
    author = Author(tmp_path, program(body), redact=redact, redact_cut=lambda text: redact(text)[:9])

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1", b"1")])
        stage.runner.run([taken("t2", b"2")])
        found = await stage.outcomes(2)
        assert found["t1"] == Failure("answer ***", retry=False)
        assert "error ***" in found["t2"].error
        assert "hush" not in found["t2"].error
        assert author.texts() == ["print ***", "glue ***", "print ***", "glue ***"]
        assert author.texts("stderr") == ["error ***"] * 2

    play(Pool("q", recovery(enabled=False)), [author.command], scene)
    failing = Author(
        tmp_path, program(before='say(status="error", error="start hush"); time.sleep(3600)'), redact=redact
    )
    with pytest.raises(ProcessNotReadyError, match=r"failed to start: start \*\*\*"):
        play(Pool("q", recovery()), [failing.command], lambda stage: stage.until(lambda: True, "never"))
