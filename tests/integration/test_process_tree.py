"""The agent's process tree: what it inherits is put right, what ends is collected, and nothing outlives the agent."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from runqy_agent.process.descendants import Origin
from stage import alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stage import Agent, Stage

QUEUE = "inference.default"
AUTHOR = """
import json, os, resource, signal, subprocess, sys, time

def answer(task, result=None):
    print(json.dumps({"task_id": task["task_id"], "result": result}), flush=True)

print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    BODY
"""
REPORT = """
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
signals = {name: int(status[name], 16) for name in ("SigIgn", "SigBlk")}
answer(task, signals | {"pid": os.getpid(), "files": resource.getrlimit(resource.RLIMIT_NOFILE)})
"""


def author(body: str) -> dict[str, str]:
    return {"main.py": AUTHOR.replace("BODY", body.strip().replace("\n", "\n    ")), "requirements.txt": "# nothing\n"}


def started_by(statements: str) -> list[str]:
    """A wrapper that does something and becomes the agent."""
    return [
        sys.executable,
        "-c",
        f"import os, resource, signal, sys\n{statements}\nos.execvp(sys.argv[1], sys.argv[1:])",
    ]


def result(stage: Stage, task: str) -> Any:
    stage.until_state(QUEUE, task, "completed")
    info = stage.client.info(QUEUE, task)
    assert info is not None
    return json.loads(info.result or b"null")


def processes_of(agent: Agent) -> list[psutil.Process]:
    return psutil.Process(agent.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> None:
    until(lambda: not any(map(alive, processes)), "none of them is left")


# What whoever starts the agent hands down.


def test_ignored_and_blocked_signals_reach_neither_the_agent_nor_a_process(stage: Stage) -> None:
    stage.queue("inference", author(REPORT))
    ignore = """
for each in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"""
    agent = stage.agent(wrapper=started_by(ignore)).wait_running()
    found = result(stage, stage.client.enqueue(QUEUE, b"1"))
    pythons_own = sum(1 << (signum - 1) for signum in (signal.SIGPIPE, signal.SIGXFSZ))
    named = sum(1 << (signum - 1) for signum in signal.valid_signals())  # the C library keeps some for itself
    assert (found["SigIgn"] & named, found["SigBlk"] & named) == (pythons_own, 0)
    assert "had it ignore or block" in agent.log()
    assert "SIGCHLD" in agent.log()
    assert agent.terminate() == 0


def test_an_ignored_sigchld_costs_no_exit_code(stage: Stage) -> None:
    stage.queue("inference", author("os._exit(7)"))
    ignore = started_by("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    agent = stage.agent(wrapper=ignore, recovery_initial_delay="50ms").wait_running()
    task = stage.client.enqueue(QUEUE, b"1", max_retry=0)
    stage.until_state(QUEUE, task, "archived")
    info = stage.client.info(QUEUE, task)
    assert info is not None
    assert info.message.error_msg == "crashed the process 1 time: the process exited with code 7"
    assert agent.terminate() == 0


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_descriptors_are_replaced_and_named(stage: Stage, closed: tuple[int, ...]) -> None:
    stage.queue("inference", author(REPORT))
    agent = stage.agent(wrapper=started_by(f"for each in {closed}: os.close(each)")).wait_running()
    assert result(stage, stage.client.enqueue(QUEUE, b"1"))["pid"]
    targets = {number: str(Path(f"/proc/{agent.pid}/fd/{number}").readlink()) for number in range(3)}
    log = str(agent.log_path)
    assert targets[0] == "/dev/null"
    assert targets[1] == ("/dev/null" if 1 in closed else log)
    assert targets[2] == ("/dev/null" if {1, 2} <= set(closed) else log)
    assert agent.terminate() == 0
    for number, name in enumerate(("standard input", "standard output", "standard error")):
        assert (f"{name} was closed" in agent.log()) == (number in closed and not {1, 2} <= set(closed))


def test_the_agent_takes_all_open_files_it_may_have_and_a_process_gets_what_was_handed_down(stage: Stage) -> None:
    stage.queue("inference", author(REPORT))
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4000)
    limit = started_by(f"resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))")
    agent = stage.agent(wrapper=limit).wait_running()
    assert resource.prlimit(agent.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert result(stage, stage.client.enqueue(QUEUE, b"1"))["files"] == [300, hard]
    assert "the limit of open files" not in agent.log()
    assert agent.terminate() == 0


def test_a_limit_of_open_files_that_is_too_small_is_told_and_respected(stage: Stage) -> None:
    stage.queue("inference", author("time.sleep(0.2); answer(task, 1)"), mode="one_shot")
    limit = started_by("resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70))")
    agent = stage.agent(wrapper=limit, concurrency=20).wait_running()
    tasks = [stage.client.enqueue(QUEUE, b"1", max_retry=0) for _ in range(60)]
    for task in tasks:
        assert result(stage, task) == 1
    until(lambda: agent.record()["status"] == "running", "it is healthy")
    assert "the limit of open files is 70, but 20 processes need about" in agent.log()
    assert "cannot be started yet: Too many open files; trying again. Raise the limit of open files" in agent.log()
    assert "starting a process of queue inference again" not in agent.log()
    assert agent.terminate() == 0


# What ends.


def test_ended_orphans_are_collected_and_exit_codes_are_not_taken_away(stage: Stage) -> None:
    body = """
if os.fork() == 0:
    if os.fork():
        os._exit(0)  # its child becomes the agent's
    os.setsid()
    os._exit(0)
os.wait()
os._exit(9) if task["payload"] == 9 else answer(task, 1)
"""
    stage.queue("inference", author(body), mode="one_shot")
    agent = stage.agent(concurrency=4).wait_running()
    tasks = [stage.client.enqueue(QUEUE, b"9" if n % 4 == 0 else b"1", max_retry=0) for n in range(40)]
    for number, task in enumerate(tasks):
        stage.until_state(QUEUE, task, "completed" if number % 4 else "archived")
        info = stage.client.info(QUEUE, task)
        assert info is not None
        assert info.message.error_msg == (
            "" if number % 4 else "crashed the process 1 time: the process exited with code 9"
        )
    until(lambda: not [each for each in processes_of(agent) if not alive(each)], "no zombie is left")
    assert agent.terminate() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace of its own takes root")
def test_as_pid_1_it_collects_what_it_adopts(stage: Stage) -> None:
    body = """
subprocess.Popen(["sh", "-c", "sleep 0.01 & exit 0"], start_new_session=True).wait()
answer(task, os.getppid())
"""
    stage.queue("inference", author(body), mode="one_shot")
    agent = stage.agent(wrapper=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"], concurrency=4)
    (worker,) = until(lambda: psutil.Process(agent.pid).children(), "the agent runs in its namespace")
    tasks = [stage.client.enqueue(QUEUE, b"1") for _ in range(40)]
    for task in tasks:
        assert result(stage, task) == 1
    until(lambda: not [each for each in worker.children(recursive=True) if not alive(each)], "no zombie is left")
    worker.send_signal(signal.SIGTERM)
    assert agent.wait() == 0


# The agent's own end.

BUSY = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
open(task["payload"], "w").write(str(child.pid))
time.sleep(3600)
"""


@pytest.fixture
def left_behind() -> Iterator[list[psutil.Process]]:
    """Whatever a test leaves behind on purpose."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_processes_and_spares_end_with_an_agent_that_is_killed(
    stage: Stage, tmp_path: Path, mode: str, left_behind: list[psutil.Process]
) -> None:
    stage.queue("inference", author(BUSY), mode=mode)
    agent = stage.agent(concurrency=2, processes=2).wait_running()
    marker = tmp_path / "pid"
    stage.client.enqueue(QUEUE, json.dumps(str(marker)).encode(), timeout=3600)
    grandchild = psutil.Process(int(until(lambda: marker.exists() and marker.read_text(), "it works")))
    worker = psutil.Process(agent.pid)
    until(lambda: len(worker.children()) >= 2, "the next process or spare is there too")
    direct = worker.children()
    left_behind += [grandchild, *direct]
    agent.kill()
    gone(direct)
    assert alive(grandchild)  # the kernel ends the agent's own processes; what they have started is found later
    other = stage.agent("inference", deployment_dir=tmp_path / "elsewhere").wait_running()
    assert alive(grandchild)  # it is of another deployment directory, and may be another agent's
    assert other.terminate() == 0
    assert alive(grandchild)
    again = stage.agent().wait_running()
    gone([grandchild])
    assert (
        f"killed process {grandchild.pid}, which an agent of this deployment directory had left behind" in again.log()
    )
    assert again.terminate() == 0


def test_an_agent_leaves_the_processes_of_a_running_one_in_the_same_directory_alone(
    stage: Stage, tmp_path: Path
) -> None:
    stage.queue("inference", author(BUSY))
    first = stage.agent().wait_running()
    marker = tmp_path / "pid"
    stage.client.enqueue(QUEUE, json.dumps(str(marker)).encode(), timeout=3600)
    until(lambda: marker.exists() and marker.read_text(), "it works")
    theirs = processes_of(first)
    second = stage.agent().wait_running()
    assert all(map(alive, theirs))
    assert "had left behind" not in second.log()
    assert second.terminate() == 0
    assert all(map(alive, theirs))
    first.process.send_signal(signal.SIGTERM)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    gone(theirs)


def test_a_build_ends_with_an_agent_that_is_killed_and_what_it_started_is_ended_by_the_next(
    stage: Stage, tmp_path: Path, left_behind: list[psutil.Process]
) -> None:
    marker = tmp_path / "pid"
    setup = f"""
import os, subprocess, sys
if not os.path.exists({str(marker)!r}):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    open({str(marker)!r}, "w").write(str(child.pid))
    child.wait()
from setuptools import setup
setup(name="package", version="1", py_modules=[])
"""
    files = {**author("answer(task, 1)"), "requirements.txt": "./package\n", "package/setup.py": setup}
    stage.queue("inference", files)
    agent = stage.agent(deployment_dir=tmp_path / "deployment")
    grandchild = psutil.Process(int(until(lambda: marker.exists() and marker.read_text(), "it builds")))
    builders = psutil.Process(agent.pid).children()
    left_behind += [grandchild, *processes_of(agent)]
    assert builders
    agent.kill()
    gone(builders)
    stage.agent(deployment_dir=tmp_path / "deployment")
    gone([grandchild])


def test_what_lost_its_parent_and_its_mark_ends_with_the_agent(stage: Stage, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    body = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    code = "import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(3600)"
    os.execve(sys.executable, [sys.executable, "-c", code], {{}})
answer(task, 1)
"""
    stage.queue("inference", author(body))
    agent = stage.agent().wait_running()
    assert result(stage, stage.client.enqueue(QUEUE, b"1")) == 1
    stray = psutil.Process(int(until(lambda: marker.exists() and marker.read_text(), "it runs")))
    assert agent.terminate() == 0
    gone([stray])


# Which leftovers are whose.


def sleeper(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "3600"], env={"PATH": "/usr/bin:/bin", **environment})


def test_only_what_an_agent_of_this_directory_left_behind_that_is_gone_is_ended(tmp_path: Path) -> None:
    own = Origin(tmp_path / "here")
    (variable,) = own.environment
    value = own.environment[variable]
    place, pid, started = value.rsplit("-", 2)
    digest, namespace = value.split("-")[0], Path("/proc/self/ns/pid").stat().st_ino
    assert place == f"{digest}-{namespace}"
    with subprocess.Popen(["sleep", "0"]) as ended:
        ended.wait()
    spared = [
        sleeper({}),
        sleeper(own.environment),  # its agent runs: it is this process
        sleeper({variable: f"{place}-{pid}-{started}x".removesuffix("x")}),
        sleeper(Origin(tmp_path / "elsewhere").environment | {variable: f"elsewhere-1-{ended.pid}-1"}),
        sleeper({variable: f"{digest}-{namespace + 1}-{ended.pid}-1"}),  # its pids are those of another namespace
        sleeper({"OTHER": f"{variable}={place}-{ended.pid}-1"}),
        sleeper({variable: "nonsense"}),
        sleeper({variable: f"{place}-nonsense-1"}),
    ]
    doomed = [
        sleeper({variable: f"{place}-{ended.pid}-1"}),
        sleeper({variable: f"{place}-{pid}-{int(started) + 1}"}),  # the pid is somebody else's by now: this process's
    ]
    try:
        assert sorted(Origin(tmp_path / "here").end_leftovers()) == sorted(each.pid for each in doomed)
        assert [each.wait() for each in doomed] == [-signal.SIGKILL] * len(doomed)
        assert [each.poll() for each in spared] == [None] * len(spared)
    finally:
        for each in [*spared, *doomed]:
            each.kill()
            each.wait()
