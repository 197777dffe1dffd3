"""Child commands of a deployment: bounded, redacted, ended with their whole group."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from pathlib import Path

import pytest

from runqy_agent import spawning
from runqy_agent.deployment.commands import Command, run
from runqy_agent.errors import EnvironmentBuildError, GitError
from stage import until


def shell(script: str, *, seconds: float = 60, keep: int = 65536, secrets: tuple[str, ...] = ()) -> Command:
    return Command(
        ["sh", "-c", script],
        purpose="trying",
        env={"PATH": os.environ["PATH"]},
        error=GitError,
        seconds=seconds,
        keep=keep,
        secrets=secrets,
    )


def test_only_the_end_of_the_output_is_kept() -> None:
    assert asyncio.run(run(shell("seq 1 100000; echo the end", keep=8))) == "the end\n"


def test_a_failure_names_purpose_program_code_and_last_lines_but_no_secret() -> None:
    with pytest.raises(GitError) as failed:
        asyncio.run(run(shell("echo one >&2; echo the hunter2 key >&2; exit 3", secrets=("hunter2",))))
    assert str(failed.value) == "trying failed: sh ended with exit code 3: one\nthe *** key"
    with pytest.raises(GitError, match="signal SIGKILL"):
        asyncio.run(run(shell("kill -KILL $$")))


@pytest.mark.parametrize("behind", range(20))
def test_a_secret_cut_by_the_edge_of_what_is_kept_leaks_no_part(behind: int) -> None:
    """The edge goes through each place of the secret once, and past both of its ends."""
    secret = "hunter2-and-more"
    script = f"printf '%s' 'some words {secret} {'x' * behind}'"
    kept = asyncio.run(run(shell(script, keep=20, secrets=(secret,))))
    assert not [piece for length in range(1, 17) if (piece := secret[-length:]) in kept and piece not in "*** x"]
    assert kept.endswith("x" * min(behind, 3)), "what follows stays"


@pytest.mark.parametrize("behind", range(40))
def test_a_password_in_a_url_cut_by_the_edge_leaks_no_part(behind: int) -> None:
    script = f"printf '%s' 'see https://me:PASSWORD@git.example.com/a {'x' * behind}'"
    kept = asyncio.run(run(shell(script, keep=40)))
    assert not set(kept) & set("PASSWORD")
    assert kept.endswith("x" * behind)


def test_a_secret_that_is_the_beginning_of_another_does_not_uncover_its_end() -> None:
    assert asyncio.run(run(shell("echo abcdef", secrets=("abc", "abcdef")))) == "***\n"


def test_a_secret_that_is_written_in_two_pieces_is_blanked() -> None:
    assert asyncio.run(run(shell("printf 'a hun'; sleep 0.1; echo ter2", secrets=("hunter2",)))) == "a ***\n"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("error: write: No space left on device", "make room"),
        ("OSError: [Errno 122] Disk quota exceeded", "quota of this user"),
        ("fatal: Read-only file system", "one that can be written"),
    ],
)
def test_a_command_that_cannot_write_says_what_to_do(words: str, advice: str) -> None:
    with pytest.raises(GitError, match=advice) as failed:
        asyncio.run(run(shell(f"echo '{words}' >&2; exit 1")))
    assert words in str(failed.value)


def test_nothing_can_be_read_from_stdin_and_the_environment_is_the_one_given() -> None:
    assert asyncio.run(run(shell("cat; env | grep -c HOME || true"))) == "0\n"


def test_a_program_that_is_not_there_is_the_error_asked_for(tmp_path: Path) -> None:
    for program, message in (("no-such-program", "was not found"), (str(tmp_path), "cannot be started")):
        command = Command([program], purpose="trying", env={}, error=EnvironmentBuildError, seconds=9)
        with pytest.raises(EnvironmentBuildError, match=message):
            asyncio.run(run(command))


def test_a_command_waits_until_the_agent_has_what_starting_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spawning, "SHORTAGE_SECONDS", 0.0)
    shortages = [errno.EMFILE, errno.EAGAIN]

    async def short(*_: object, **__: object) -> asyncio.subprocess.Process:
        if shortages:
            raise OSError(number := shortages.pop(0), os.strerror(number))
        return await asyncio.create_subprocess_exec("echo", "started", stdout=-1, stderr=-1)

    monkeypatch.setattr("runqy_agent.deployment.commands.create", short)
    assert asyncio.run(run(shell("echo"))) == "started\n"
    assert caplog.text.count("trying: sh cannot be started yet: Too many open files; trying again. Raise") == 1


def test_a_command_that_waits_to_be_started_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()

    async def short(*_: object, **__: object) -> asyncio.subprocess.Process:
        tried.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def cancelled() -> None:
        running = asyncio.ensure_future(run(shell("echo")))
        await tried.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    monkeypatch.setattr("runqy_agent.deployment.commands.create", short)
    asyncio.run(cancelled())


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(GitError, match="trying failed: sh was stopped because it took longer"):
        asyncio.run(run(shell("sleep 600", seconds=0.05)))


def test_cancelling_ends_the_whole_group_even_if_it_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runqy_agent.deployment.commands._TERM_GRACE", 0.05)
    fifo = tmp_path / "started"
    os.mkfifo(fifo)

    async def scenario() -> list[str]:
        running = asyncio.ensure_future(run(shell(f"trap '' TERM; sleep 600 & echo $! $$ >{fifo}; wait")))
        pids = await asyncio.to_thread(fifo.read_text, "utf-8")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return pids.split()

    assert not [pid for pid in asyncio.run(scenario()) if is_running(pid)]


@pytest.mark.parametrize("turns", range(12))
def test_cancelling_while_the_command_starts_leaves_none_of_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr("runqy_agent.deployment.commands._TERM_GRACE", 0.05)
    command = shell("trap '' TERM; sleep 600 & wait")
    command = dataclasses.replace(command, env={**command.env, "MARK": str(tmp_path)})

    async def scenario() -> None:
        running = asyncio.ensure_future(run(command))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    found = [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if str(tmp_path) in readable(path)]
    until(lambda: not any(map(is_running, found)), "what was killed has ended")


def is_running(pid: str) -> bool:
    return (state := readable(Path(f"/proc/{pid}/stat"))) != "" and state.rpartition(")")[2].split()[0] not in "ZX"


def readable(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
