"""What holds for everything that the agent starts."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from runqy_agent import spawning
from stage import alive, until

if TYPE_CHECKING:
    from pathlib import Path

KILLED_STARTER = """
import os, signal, subprocess, sys, time
from runqy_agent import spawning
if sys.argv[1] == "without setpriv":
    spawning._setpriv = tuple
program = subprocess.Popen(spawning.ending_with_the_agent(["sleep", "3600"]))
while open(f"/proc/{program.pid}/comm").read() != "sleep\\n":
    time.sleep(0.01)
print(program.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
TRUE = ["true"]


@pytest.mark.parametrize("how", ["with setpriv", "without setpriv"])
def test_a_program_ends_with_whoever_started_it(how: str) -> None:
    started = subprocess.run([sys.executable, "-c", KILLED_STARTER, how], capture_output=True, text=True, check=False)
    assert started.returncode == -signal.SIGKILL, started.stderr
    pid = int(started.stdout)
    until(lambda: not psutil.pid_exists(pid) or not alive(psutil.Process(pid)), "the program has ended")


def test_a_program_whose_starter_has_ended_before_it_begins_does_not_begin() -> None:
    shim = [sys.executable, "-I", "-S", "-c", spawning._SHIM]
    assert subprocess.run([*shim, "1", *TRUE], check=False).returncode == 1
    assert subprocess.run([*shim, str(os.getpid()), *TRUE], check=False).returncode == 0


def test_what_cannot_be_started_is_said_before_it_is_tried(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for name in ("program", "./program", str(tmp_path / "program"), "true"):
        spawning.check_program([name], tmp_path, environment)
    for name in ("missing", "./missing", "./true", ""):
        with pytest.raises(FileNotFoundError):
            spawning.check_program([name] if name else ["/missing/program"], tmp_path, environment)
    for name in ("text", "./text", str(tmp_path)):
        with pytest.raises(PermissionError):
            spawning.check_program([name], tmp_path, environment)


def test_a_shortage_is_waited_out_and_everything_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shortages = [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM]
    monkeypatch.setattr(spawning, "SHORTAGE_SECONDS", 0.0)
    errors: list[int] = []
    started = spawning._spawn

    def short(argv: list[str], cwd: Path, environment: dict[str, str]) -> spawning.Started:
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number))
        return started(argv, cwd, environment)

    async def start() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        made = await spawning.spawn(TRUE, tmp_path, {"PATH": "/usr/bin:/bin"}, "a process of queue q")
        spawning.watch_end(made.pid, ended.set_result)
        code = await ended
        for descriptor in made[1:]:
            os.close(descriptor)
        return code

    monkeypatch.setattr(spawning, "_spawn", short)
    errors += shortages
    assert asyncio.run(start()) == 0
    assert not errors
    assert caplog.text.count("a process of queue q cannot be started yet: Too many open files; trying again.") == 1
    errors += [errno.E2BIG]
    with pytest.raises(OSError, match="Argument list too long"):
        asyncio.run(start())
    assert not spawning.own_children


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "Raise the limit of open files"),
        (errno.ENFILE, "Raise the limit of open files"),
        (errno.EAGAIN, "Raise the limit of processes"),
        (errno.ENOMEM, "The host is out of memory"),
    ],
)
def test_for_each_shortage_there_is_something_to_do(number: int, advice: str) -> None:
    assert spawning.advice(OSError(number, "")).startswith(advice)


def test_what_is_started_has_the_limit_of_open_files_that_the_agent_was_started_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(spawning, "_file_limit", [(soft - 1, hard)])
    monkeypatch.setattr(spawning, "_origin", {"ORIGIN": "here"})

    async def ask() -> bytes:
        program = 'read line; ulimit -Sn; echo "$ORIGIN $OTHER $HOME"'
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {"OTHER": "there", "PATH": "/usr/bin:/bin"}
        process = await spawning.create(["sh", "-c", program], environment=environment, **pipes)
        assert process.pid in spawning.own_children
        output, _ = await process.communicate(b"go on\n")
        await asyncio.sleep(0)
        return output

    assert asyncio.run(ask()).decode().split() == [str(soft - 1), "here", "there"]
    assert not spawning.own_children
