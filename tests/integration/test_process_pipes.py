"""The pipes to a process, on both event loops: nothing is lost, nothing leaks, and a flood keeps nobody waiting."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from process_kit import Author, Stage, command, on_each_loop, play, program, recovery
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Failure, Success
from runqy_agent.process import outputs
from runqy_agent.process.one_shot import OneShot
from runqy_agent.process.pool import Pool
from runqy_agent.process.printing import BURST_LINES
from task_kit import taken

Run = Any
CLOSED = "the process closed its standard output, could not answer any more, and was killed"
LEFT_OUT = re.compile(r"… ([\d,]+) lines \(([\d,]+) bytes\) left out: the processes of queue q print faster .*")


def descriptors() -> list[str]:
    """What the descriptors of this process lead to."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(f"{descriptor.name} {descriptor.readlink()}")
    return found


@on_each_loop
def test_a_process_that_closes_its_output_and_lives_on_is_ended_at_once(tmp_path: Path, run: Run) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert outcome.error == f"crashed the process 1 time: {CLOSED}\nlast words"

    code = program('print("last words", file=sys.stderr, flush=True); os.close(1); time.sleep(3600)')
    play(Pool("q", recovery()), [command(tmp_path, code)], scene, run=run)


@on_each_loop
def test_a_process_that_closes_its_output_before_it_is_ready_fails_to_start(tmp_path: Path, run: Run) -> None:
    code = program(before="os.close(1); time.sleep(3600)")
    with pytest.raises(ProcessNotReadyError, match=f"before it was ready, {CLOSED}"):
        play(Pool("q", recovery()), [command(tmp_path, code)], lambda stage: stage.until(lambda: True, ""), run=run)


@on_each_loop
def test_a_process_that_closes_its_error_output_serves_on(tmp_path: Path, run: Run) -> None:
    async def scene(stage: Stage) -> None:
        for number in range(3):
            stage.runner.run([taken(f"t{number}")])
            await stage.outcomes(number + 1)
        assert {outcome for _, outcome in stage.sink.seen} == {Success(b"1")}

    play(
        Pool("q", recovery()),
        [command(tmp_path, program("answer(task, 1)", "os.close(2)"))],
        scene,
        run=run,
    )


@on_each_loop
def test_no_descriptor_of_the_agent_reaches_a_process(tmp_path: Path, run: Run) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)  # noqa: FBT003 - positional only

        async def scene(stage: Stage) -> None:
            stage.runner.run([taken("t1")])
            (outcome,) = (await stage.outcomes(1)).values()
            assert isinstance(outcome, Success)
            assert json.loads(outcome.result or b"") == ["0", "1", "2"]

        body = 'fds = "/proc/self/fd"; answer(task, [fd for fd in os.listdir(fds) if os.path.lexists(f"{fds}/{fd}")])'
        play(Pool("q", recovery()), [command(tmp_path, program(body))], scene, run=run)


@on_each_loop
@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_an_ended_process_leaves_no_descriptor_and_no_child_in_the_agent(tmp_path: Path, run: Run, mode: str) -> None:
    codes = [
        program(),
        program("os._exit(3)"),
        program("os.close(1); time.sleep(3600)"),
        program("os.kill(os.getpid(), 9)"),
        program("import subprocess; subprocess.Popen(['sleep', '3600'], start_new_session=True); os._exit(3)"),
    ]

    async def use(code: str) -> None:
        runner: Pool | OneShot = Pool("q", recovery()) if mode == "long_running" else OneShot("q", recovery()())

        async def scene(stage: Stage) -> None:
            for number in range(4):  # each may end its process, and has another one then
                await stage.until(lambda: stage.runner.ready, "it takes tasks")
                stage.runner.run([taken(f"t{number}")])
                await stage.outcomes(number + 1)

        await Stage(runner, [command(tmp_path, code)]).play(scene)
        missing = replace(command(tmp_path, code), argv=("no-such-program",))
        with pytest.raises(ProcessNotReadyError, match=r"no-such-program cannot be started in .*: .*No such file"):
            await Stage(Pool("q", recovery()), [missing]).play(scene)
        too_long = replace(missing, argv=("true", "x" * 2**22))
        with pytest.raises(ProcessNotReadyError, match="Argument list too long"):
            await Stage(Pool("q", recovery()), [too_long]).play(scene)

    async def main() -> None:
        children = psutil.Process().children(recursive=True)  # servers of other tests
        before = len(descriptors()) + 1  # a thread may be looking for what was left behind, in one directory
        for code in codes:
            await use(code)
        stage = Stage(Pool("q", recovery()), [])
        await stage.until(lambda: len(descriptors()) <= before, "all descriptors are closed")
        assert [each for each in psutil.Process().children(recursive=True) if each not in children] == []

    run(main())


@on_each_loop
def test_tasks_larger_than_a_pipe_arrive_whole_and_in_order(tmp_path: Path, run: Run) -> None:
    async def scene(stage: Stage) -> None:
        payloads = [b'"%s"' % (b"%d" % number * 300_000) for number in range(10)]
        stage.runner.run([taken(f"t{number}", payload) for number, payload in enumerate(payloads)])
        await stage.outcomes(10)
        assert stage.sink.seen == [(f"t{number}", Success(payload)) for number, payload in enumerate(payloads)]

    play(Pool("q", recovery()), [command(tmp_path, program("time.sleep(0.05); answer(task, payload)"))], scene, run=run)


FLOODS = {
    "lines": 'os.write(1, b"yes\\n" * 16384)',
    "error output": 'os.write(2, b"yes\\n" * 16384)',
    "JSON": 'os.write(1, b\'{"level":"info","task_id":"upload-17"}\\n\' * 1024)',
    "dropped answers": 'os.write(1, b\'{"task_id":"upload-17","result":1}\\n\' * 1024)',
    "no line breaks": 'os.write(1, b"x" * 65536)',
}


@on_each_loop
@pytest.mark.parametrize("flood", FLOODS)
def test_answers_come_through_a_flood_of_printing_in_their_order(tmp_path: Path, run: Run, flood: str) -> None:
    author = Author(tmp_path, program(f"for _ in range(5): {FLOODS[flood]}\nanswer(task, payload)"))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}", b"%d" % number) for number in range(10)])
        await stage.outcomes(10)
        assert stage.sink.seen == [(f"t{number}", Success(b"%d" % number)) for number in range(10)]

    play(Pool("q", recovery()), [author.command], scene, run=run)


@on_each_loop
def test_what_is_left_out_of_the_log_is_counted_and_told(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "TELL_SECONDS", 0.05)
    lines = 20 * 16384
    author = Author(tmp_path, program(f"for _ in range(10): {FLOODS['lines']}\nanswer(task, payload)"))

    async def scene(stage: Stage) -> None:
        for number in range(2):
            stage.runner.run([taken(f"t{number}")])
            await stage.outcomes(number + 1)
            await stage.until(lambda: len(author.texts("stderr")) >= len(stage.sink.seen), "it is told")

    play(Pool("q", recovery()), [author.command], scene, run=run)
    assert BURST_LINES <= len(author.texts()) < lines // 2
    told = [LEFT_OUT.fullmatch(text) for text in author.texts("stderr")]
    assert all(told)
    left_out = [int(each[1].replace(",", "")) for each in told if each]
    assert len(author.texts()) + sum(left_out) == lines
    assert sum(int(each[2].replace(",", "")) for each in told if each) == 3 * sum(left_out)


@on_each_loop
@pytest.mark.parametrize("flood", ["lines", "error output", "JSON", "no line breaks"])
@pytest.mark.parametrize("how", ["itself", "a child that it leaves behind"])
def test_a_process_that_prints_without_end_lets_the_event_loop_turn_and_is_ended(
    tmp_path: Path, run: Run, flood: str, how: str
) -> None:
    forever = f"while True: {FLOODS[flood]}"
    if how != "itself":
        forever = f"if os.fork(): os._exit(3)\nos.setsid()\n{forever}"
    author = Author(tmp_path, program(forever, "print(os.getpid(), flush=True)"))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        if how == "itself":
            await stage.until(lambda: len(author.printed) > 10 or flood == "no line breaks", "it prints")
            for _ in range(200):  # others have their turn, again and again
                await asyncio.sleep(0)
            assert not stage.sink.seen
        else:
            (outcome,) = (await stage.outcomes(1)).values()
            assert isinstance(outcome, Failure)
            assert "exited with code 3" in outcome.error

    play(Pool("q", recovery(enabled=False)), [author.command], scene, run=run)
    pid = int(author.texts()[0])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@on_each_loop
def test_the_processes_of_a_queue_share_what_they_may_print(tmp_path: Path, run: Run) -> None:
    author = Author(
        tmp_path, program("for _ in range(2000): print('yes', flush=False)\nsys.stdout.flush()\nanswer(task, 1)")
    )

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken(f"t{number}") for number in range(8)])
        await stage.outcomes(8)

    play(OneShot("q", recovery()()), [author.command], scene, run=run)
    assert sum(len(LEFT_OUT.findall(text)) for text in author.texts("stderr")) >= 1
    assert len(author.texts()) < 8 * 2000


def test_the_last_lines_of_the_error_output_are_those_that_were_left_out_of_the_log_too(tmp_path: Path) -> None:
    body = "for n in range(20000): print('line', n, file=sys.stderr)\nos._exit(3)"
    author = Author(tmp_path, program(body), redact=lambda text: text.replace("19999", "***"))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert outcome.error.splitlines()[1:] == [*(f"line {n}" for n in range(19980, 19999)), "line ***"]

    play(Pool("q", recovery()), [author.command], scene)


@on_each_loop
def test_the_end_of_a_process_is_noticed_where_the_kernel_does_not_tell(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert "the process exited with code 3" in outcome.error

    code = program("import subprocess; subprocess.Popen(['sleep', '3600'], start_new_session=True); os._exit(3)")
    children = psutil.Process().children()  # servers of other tests
    play(Pool("q", recovery(enabled=False)), [command(tmp_path, code)], scene, run=run)
    assert [each for each in psutil.Process().children() if each not in children] == []


@on_each_loop
def test_an_exit_code_that_somebody_else_has_collected_is_told_as_such(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert "the process exited with code 255" in outcome.error

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects it
    try:
        play(Pool("q", recovery(enabled=False)), [command(tmp_path, program("os._exit(0)"))], scene, run=run)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "was collected by somebody else; it counts as 255" in caplog.text


@on_each_loop
@pytest.mark.parametrize("end", ["", "\\n"])
def test_the_last_answer_counts_whether_or_not_its_line_was_ended(tmp_path: Path, run: Run, end: str) -> None:
    body = f"""
os.write(2, b"last words")
os.write(1, (json.dumps({{"task_id": task["task_id"], "result": 42}}) + "{end}").encode())
os._exit(0)
"""
    author = Author(tmp_path, program(body))

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        assert await stage.outcomes(1) == {"t1": Success(b"42")}
        await stage.until(lambda: author.texts("stderr") == ["last words"], "the error output is logged too")

    play(OneShot("q", recovery()(), prestart=0), [author.command], scene, run=run)


@on_each_loop
def test_a_process_that_is_to_stop_is_asked_by_the_end_of_its_input_too(tmp_path: Path, run: Run) -> None:
    last = "open('ended', 'w').write('by itself')"
    code = program(before="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)") + last

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        await stage.outcomes(1)

    play(Pool("q", recovery()), [command(tmp_path, code)], scene, run=run)
    assert (tmp_path / "ended").read_text() == "by itself"


@on_each_loop
def test_a_process_that_is_to_stop_is_asked_by_sigterm(tmp_path: Path, run: Run) -> None:
    handler = "lambda *_: (open('ended', 'w').write('by SIGTERM'), os._exit(0))"
    code = program("answer(task, 1); time.sleep(3600)", f"import signal; signal.signal(signal.SIGTERM, {handler})")

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        await stage.outcomes(1)

    play(Pool("q", recovery()), [command(tmp_path, code)], scene, run=run)
    assert (tmp_path / "ended").read_text() == "by SIGTERM"


@on_each_loop
def test_the_last_words_of_what_an_ended_process_has_started_belong_to_its_error(tmp_path: Path, run: Run) -> None:
    body = """
if os.fork():
    os._exit(3)
os.close(1)
time.sleep(0.1)
os.write(2, b"late words")
os._exit(0)
"""

    async def scene(stage: Stage) -> None:
        stage.runner.run([taken("t1")])
        (outcome,) = (await stage.outcomes(1)).values()
        assert isinstance(outcome, Failure)
        assert outcome.error == "crashed the process 1 time: the process exited with code 3\nlate words"

    play(Pool("q", recovery(enabled=False)), [command(tmp_path, program(body))], scene, run=run)
