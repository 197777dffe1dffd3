"""What an operator is told of code that is not the wanted one, and the command that asks for new code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from commands_kit import Worker, process, worker_status
from runqy_agent.broker.presence import WorkerState
from runqy_agent.cli import main
from runqy_agent.commands.fleet import FleetWorker
from runqy_agent.commands.overview import fleet_table
from runqy_agent.process.runner import RunnerHealth
from runqy_agent.reporting.prometheus import metrics
from runqy_agent.reporting.status import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runqy_agent.reporting.status import Status

OLD, NEW = "a" * 40, "b" * 40
STALE = process(commit=OLD, stale=True, wanted=NEW, stale_reason="exited with code 1\nTraceback")
SWITCHED = {"outcome": "switched", "commit": NEW, "reason": ""}
FAILED = {"outcome": "failed", "commit": OLD, "reason": "exited with code 1"}
REFUSED = {"outcome": "unchanged", "commit": OLD, "reason": "commit bbb is not tried again"}


def progress(number: int, *, running: bool = False, **results: Any) -> dict[str, Any]:
    return {"redeploy": {"number": number, "running": running, "at": 0.0, "results": results, "restart": []}}


def told(**changes: Any) -> Status:
    return cast("Status", worker_status(**changes))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(str(tmp_path / "status.sock")).serve() as worker:
        yield worker


def redeploy(worker: Worker, *arguments: str) -> int:
    return main(["redeploy", "--address", worker.address, *arguments])


# The command


def test_redeploy_waits_for_the_one_that_it_asked_for(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    # One is under way: its end is not the end of what this asks for.
    steps = [progress(1, running=True), progress(1, running=True), progress(2, running=True)]
    answers = iter([*steps, progress(2, inference=SWITCHED)])
    worker.answer = lambda: worker_status(**next(answers))
    assert redeploy(worker, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"worker_id": "host:7:old", "done": True, "results": {"inference": SWITCHED}, "restart": []}
    assert worker.asked == ["/redeploy"]


def test_the_end_of_an_earlier_one_is_not_what_it_waits_for(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [progress(1, inference=FAILED)] * 4  # before, when it is asked, and before it has begun
    answers = iter([*steps, progress(2, inference=SWITCHED)])
    worker.answer = lambda: worker_status(**next(answers))
    assert redeploy(worker, "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"] == {"inference": SWITCHED}


@pytest.mark.parametrize("result", [FAILED, REFUSED])
def test_redeploy_is_one_if_a_queue_does_not_serve_what_it_should_and_says_why(
    result: dict[str, str], worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.answer = lambda: worker_status(**progress(len(worker.asked), images=SWITCHED, inference=result))
    assert redeploy(worker) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"images: switched, commit {NEW[:12]} serves",
        f"inference: {result['outcome']}, commit {OLD[:12]} serves: {result['reason']}",
    ]


def test_redeploy_is_one_if_something_waits_for_a_restart_and_says_what(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> Any:
        found = progress(len(worker.asked), inference=SWITCHED)
        found["redeploy"]["restart"] = ["another Redis"]
        return worker_status(**found)

    worker.answer = answer
    assert redeploy(worker) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["restart the worker to bring this into effect: another Redis"]
    assert redeploy(worker, "--json") == 1
    assert json.loads(capsys.readouterr().out)["restart"] == ["another Redis"]
    assert in_words(worker.answer()).startswith("running, to be restarted: ")


def test_a_worker_of_an_older_version_that_does_not_tell_of_restarts_redeploys_too(worker: Worker) -> None:
    def answer() -> Any:
        found = progress(len(worker.asked), inference=SWITCHED)
        del found["redeploy"]["restart"]
        return worker_status(**found)

    worker.answer = answer
    assert redeploy(worker) == 0


def test_redeploy_is_one_if_it_has_not_ended_in_time_and_zero_if_nobody_waits(worker: Worker) -> None:
    worker.says(**progress(1, running=True))
    assert redeploy(worker, "--wait", "10ms") == 1
    assert redeploy(worker, "--wait", "0s") == 0
    assert len(worker.asked) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"redeploy": None}, "restart it instead"),
        ({"status": "bootstrapping"}, "still starting"),
        ({"status": "stopped"}, "the worker is stopped"),
    ],
)
def test_a_worker_that_does_not_redeploy_is_not_asked(
    changes: dict[str, Any], words: str, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.says(**changes)
    assert redeploy(worker, "--wait", "10ms") == 1
    assert words in capsys.readouterr().err
    assert worker.asked == []


def test_a_worker_that_restarts_meanwhile_is_told_of(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    worker.answer = lambda: worker_status(worker_id="host:8:new" if worker.asked else "host:7:old")
    assert redeploy(worker) == 1
    assert "was restarted meanwhile" in capsys.readouterr().err


# What is told


def test_systemd_reads_what_is_stale_in_one_line() -> None:
    words = f"inference ready (stale: commit {OLD[:12]} serves instead of {NEW[:12]}: exited with code 1)"
    assert in_words(told(processes={"inference": STALE})) == f"running: {words}"
    unknown = process(commit=OLD, stale=True, stale_reason="no route to host")
    assert f"commit {OLD[:12]} serves: no route" in in_words(told(processes={"inference": unknown}))


def test_systemd_reads_that_it_redeploys() -> None:
    assert in_words(told(**progress(1, running=True))) == "running, redeploying: inference ready"


def test_status_shows_both_commits_the_reason_and_each_process_of_a_pool(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"pid": 11, "state": "ready", "reason": "", "tasks": 2, "memory": 5 << 20, "restarts": 1, "gpu": "0"}
    two = one | {"pid": 0, "state": "recovering", "reason": "killed", "tasks": 0, "memory": 0, "gpu": ""}
    worker.says(processes={"inference": STALE | {"processes": [one, two]}})
    assert main(["status", "--address", worker.address]) == 0
    shown = capsys.readouterr().out
    assert f"commit {OLD[:12]} serves instead of {NEW[:12]}: exited with code 1" in shown
    assert "pid 11" in shown
    assert "ready, 2 tasks, 5 MiB, 1 restarts, GPU 0" in shown
    assert "recovering, 0 tasks, 1 restarts: killed" in shown


def test_a_worker_of_an_older_version_is_shown_too(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    known = ("state", "reason", "since", "commit", "consecutive_fails", "total_restarts")
    status = worker_status(processes={"inference": {name: process()[name] for name in known}})
    del status["redeploy"]
    worker.answer = lambda: status
    assert main(["status", "--address", worker.address]) == 0
    assert "process inference ready" in capsys.readouterr().out


def test_prometheus_reads_what_is_stale_and_how_many_processes_there_are() -> None:
    each = {"pid": 11, "memory": 3}
    images = process(processes=[each, each, each | {"pid": 0, "memory": 0}], dropped_responses=4)
    text = metrics(told(processes={"inference": STALE, "images": images})).decode()
    assert 'runqy_agent_process_stale{queue="inference"} 1.0' in text
    assert 'runqy_agent_process_stale{queue="images"} 0.0' in text
    assert 'runqy_agent_processes{queue="images"} 2.0' in text
    assert 'runqy_agent_process_memory_bytes{queue="images"} 6.0' in text
    assert 'runqy_agent_dropped_responses_total{queue="images"} 4.0' in text


def test_the_heartbeat_tells_the_commits_and_only_of_stale_queues_more() -> None:
    stale = RunnerHealth(state="ready", commit=OLD, stale=True, wanted=NEW, stale_reason="why")
    health = {"inference": stale, "images": RunnerHealth(state="ready", commit=NEW), "own": RunnerHealth()}
    state = WorkerState("running", 1, {}, strict_priority=False, health=health)
    assert json.loads(state.commits) == {"inference": OLD, "images": NEW}
    assert json.loads(state.stale) == {"inference": {"commit": OLD, "wanted": NEW, "reason": "why"}}
    assert json.loads(WorkerState("running", 1, {}, strict_priority=False).stale) == {}


def test_the_fleet_shows_which_queues_are_stale() -> None:
    fine = FleetWorker("h:1:a", "1", "running", True, [], 1, 0, 0, {}, {})  # noqa: FBT003 - a record, field by field
    stale = FleetWorker("h:2:b", "1", "running", True, [], 1, 0, 0, {}, {"inference": {}})  # noqa: FBT003 - the same
    rows = [line.split() for line in fleet_table([fine, stale]).splitlines()]
    column = rows[0].index("STALE")
    assert [row[column] for row in rows[1:]] == ["-", "inference"]
