"""What the commands on the host print: nothing of it steers the operator's terminal, and it fits."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from commands_kit import Systemd, Worker, process, worker_status
from runqy_agent.cli import main
from runqy_agent.commands.fleet import FleetWorker
from runqy_agent.commands.overview import fleet_table, host_overview
from runqy_agent.escaping import escape
from runqy_agent.health import UnitState
from runqy_agent.reporting.prometheus import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVIL = "a\x1b[2Jb\rc\u202ed\u2028e\x9bf\x07\nworker            forged\nhealthy: forged"
LONG = "the process exited with code 1: " + " ".join(["word"] * 40)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(str(tmp_path / "status.sock")).serve() as worker:
        yield worker


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    directory = tmp_path / "systemd"
    directory.mkdir()
    systemd = Systemd(directory)
    monkeypatch.setenv("PATH", systemd.path + os.pathsep + os.environ["PATH"])
    return systemd


def evil_status(**changes: Any) -> dict[str, Any]:
    """A worker all of whose texts are hostile."""
    pool = {"pid": 1, "state": EVIL, "reason": EVIL, "tasks": 0, "memory": 0, "restarts": 0, "gpu": EVIL}
    sick = process(
        "degraded", reason=EVIL, commit=EVIL, stale=True, wanted=EVIL, stale_reason=EVIL, processes=[pool] * 2
    )
    result = {"outcome": EVIL, "commit": EVIL, "reason": EVIL}
    redeploy = {"number": 1, "running": False, "at": 0.0, "results": {EVIL: result}, "restart": [EVIL]}
    named = {"worker_id": EVIL, "version": EVIL, "queues": {EVIL: 1}, "tasks": {EVIL: 1}, "processes": {EVIL: sick}}
    redis = {"address": EVIL, "error": EVIL, "fallbacks": [EVIL]}
    return worker_status(redeploy=redeploy, redis=redis, **(named | changes))


def harmless(text: str) -> bool:
    """Whether each line is one for a terminal too, and none begins as only ours do."""
    lines = text.split("\n")
    return all(escape(line) == line for line in lines) and not any(
        line.startswith(("worker            forged", "healthy: forged", "forged")) for line in lines
    )


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["health"], ["drain", "--wait", "10ms"], ["redeploy", "--wait", "1m"], ["logs"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_command_prints_what_steers_the_terminal(
    arguments: list[str], form: str, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"ts": 0, "src": EVIL, "text": EVIL, "seq": 1, "queue": EVIL, "pid": 1}
    worker.lines = [line]

    def answer() -> dict[str, Any]:
        status = evil_status()
        status["redeploy"]["number"] = len(worker.asked)
        return status

    worker.answer = answer
    main([*arguments, "--address", worker.address, *(["--json"] if form == "json" else [])])
    shown = capsys.readouterr()
    assert "forged" in shown.out or arguments[0] == "drain"
    assert harmless(shown.out)
    assert harmless(shown.err)
    if form == "json":
        assert shown.out.isascii()
        json.loads(shown.out)


@pytest.mark.parametrize("form", ["text", "json"])
def test_heal_prints_neither_reason_nor_journal_as_they_are(
    form: str, worker: Worker, systemd: Systemd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "systemd" / "journal").write_text(EVIL + "\n")
    worker.answer = evil_status
    arguments = ["heal", "--unit", "u", "--max-per-hour", "0", "--records", str(tmp_path / "records")]
    assert main([*arguments, "--address", worker.address, *(["--json"] if form == "json" else [])]) == 1
    shown = capsys.readouterr()
    assert "forged" in shown.out
    assert harmless(shown.out)


def test_an_error_is_printed_without_what_steers_the_terminal(
    systemd: Systemd, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd.knows(UnitState(f"a{EVIL.partition(chr(10))[0]}", "x"))
    assert main(["drain", "--unit", "u", "--address", worker.address]) == 1
    shown = capsys.readouterr().err
    assert "\\x1b[2J" in shown
    assert harmless(shown)


def test_the_fleet_is_a_table_whatever_others_have_written_there() -> None:
    times: dict[str, Any] = {"concurrency": 1, "started_at": 0, "last_beat": 0, "commits": {}}
    evil = FleetWorker(EVIL, EVIL, EVIL, healthy=True, queues=[EVIL], stale={EVIL: 1}, **times)
    good = FleetWorker("host:1:x", "1", "running", healthy=False, queues=["q:1"], stale={}, **times)
    head, *rows = fleet_table([evil, good]).split("\n")
    assert len(rows) == 2
    assert all(harmless(row) for row in rows)
    assert rows[1].index("running") == head.index("STATUS")


def test_a_queue_with_a_hostile_name_is_a_label_for_prometheus() -> None:
    status: Any = evil_status(version="1", tasks={})
    text = metrics(status).decode()
    assert harmless(text.replace("\n", " "))
    status["processes"] = {"\ud800": process()}
    metrics(status)


# What fits


def test_in_a_terminal_each_line_fits_and_goes_on_below_itself() -> None:
    status: Any = worker_status(processes={"inference": process("degraded", reason=f"{LONG}\nlast words")})
    for width in (80, 120):
        text = host_overview(status, width)
        assert max(map(len, text.split("\n"))) <= width
        lines = [line for line in text.split("\n") if "word" in line]
        assert len(lines) > 3
        assert all(line.startswith((" " * 20, "state   ", "process ")) for line in lines)
    assert sum(LONG in line for line in host_overview(status).split("\n")) == 2
    assert host_overview(status, 10) == host_overview(status)


def test_in_a_terminal_the_status_keeps_within_it(worker: Worker) -> None:
    worker.says(processes={"inference": process("degraded", reason=LONG)})
    master, terminal = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    done = subprocess.run(
        [sys.executable, "-m", "runqy_agent", "status", "--address", worker.address],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        timeout=60,
        check=False,
        env=environment | {"COLUMNS": "80"},
    )
    os.close(terminal)
    text = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)
    assert done.returncode == 0
    assert max(map(len, text.split("\n"))) <= 80
    assert "degraded: given up" in text


def test_what_the_terminal_cannot_show_is_no_reason_to_fail(worker: Worker) -> None:
    worker.says(processes={"größe": process()})
    done = subprocess.run(
        [sys.executable, "-m", "runqy_agent", "status", "--address", worker.address],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert b"process gr\\xf6\\xdfe" in done.stdout
