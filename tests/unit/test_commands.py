"""The commands on a worker's host: what they ask, what they do, what they print, and how they end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from commands_kit import Systemd, Worker, process, worker_status
from runqy_agent.cli import main
from runqy_agent.commands import heal, look
from runqy_agent.commands.heal import Records
from runqy_agent.commands.look import Wanted
from runqy_agent.health import UnitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEGRADED = {"processes": {"inference": process("degraded", reason="exited with code 3")}}
FAILED = UnitState("failed", "failed", "exit-code", exit_status=5)
QUICK = ("--samples", "2", "--interval", "1ms")


class Answer:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, "one line"
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RUNQY_") or name == "CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*arguments: str) -> Answer:
        code = main(list(arguments))
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(str(tmp_path / "status.sock")).serve() as worker:
        yield worker


@pytest.fixture
def ask(run: Callable[..., Answer], tmp_path: Path) -> Callable[..., Answer]:
    """Runs a command with the address of the worker."""
    return lambda command, *arguments: run(command, "--address", str(tmp_path / "status.sock"), *arguments)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    directory = tmp_path / "systemd"
    directory.mkdir()
    systemd = Systemd(directory)
    monkeypatch.setenv("PATH", systemd.path + os.pathsep + os.environ["PATH"])
    return systemd


@pytest.fixture
def do_heal(ask: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Heals the unit ``u``, as quickly as it goes."""
    monkeypatch.setattr(heal, "Wanted", partial(Wanted, interval=0.001))
    monkeypatch.setattr(heal, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(look, "ANSWER_SECONDS", 0.2)
    return partial(ask, "heal", "--unit", "u", "--json", "--records", str(tmp_path / "records"), "--verify", "200ms")


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "records" / "u.jsonl").read_text().splitlines()]


def restarts_of(systemd: Systemd) -> int:
    return systemd.calls().count("restart --no-block u.service")


@pytest.fixture
def sick(worker: Worker, systemd: Systemd) -> Worker:
    """A worker that is degraded until it is restarted."""
    worker.answer = lambda: worker_status(worker_id="new") if systemd.restarted else worker_status(**DEGRADED)
    return worker


# status


def test_status_is_an_overview_for_people_or_what_the_worker_says(worker: Worker, ask: Callable[..., Answer]) -> None:
    worker.says(redis={"address": "r:1/0", "error": "timed out"}, running=2, **DEGRADED)
    text = ask("status").out
    assert "host:7:old" in text
    assert "degraded: given up: inference is degraded (exited with code 3)" in text
    assert "2 of 4" in text
    assert "r:1/0, last heartbeat 0 s ago (timed out)" in text
    assert ask("status", "--json").json["worker_id"] == "host:7:old"


def test_without_a_worker_status_fails_and_says_where_it_asked(ask: Callable[..., Answer], tmp_path: Path) -> None:
    answer = ask("status", "--json")
    assert (answer.code, answer.out) == (1, "")
    assert f"no worker answers at {tmp_path}/status.sock" in answer.err


@pytest.mark.parametrize("said", [b"hello", b"[]", b'{"error": "not found"}'])
def test_somebody_else_at_the_address_is_an_error_and_no_reason_to_restart_anything(
    said: bytes, worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    worker.answer = lambda: said
    answer = do_heal()
    assert (answer.code, answer.out) == (1, "")
    assert "is not a worker's status endpoint" in answer.err
    assert not systemd.restarted


# Where the worker is


def test_the_address_comes_from_the_file_though_its_secrets_are_out_of_reach(
    worker: Worker, run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "server: {url: 'https://h', api_key_file: '${CREDENTIALS_DIRECTORY}/api_key'}\n"
        f"nonsense: 1\nworker: {{concurrency: many}}\nstatus: {{listen: 'unix:{worker.address}'}}\n"
    )
    assert run("health", "-c", str(path)).code == 0
    monkeypatch.setenv("RUNQY_CONFIG", str(path))
    assert run("health").code == 0
    assert run("status").out.startswith("worker")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("status: {listen: nowhere}\n", "the address of the worker's status: "),
        ("status: {listen: [1]}\n", "config.yml:1: status.listen: "),
        ("status: 5\n", "config.yml:1: status: found"),
        ("status: {listen: ''}\n", "status.listen is empty"),
        ("status: {listen: a\n", "not valid YAML"),
    ],
)
def test_an_address_that_cannot_be_known_is_an_error_of_the_configuration(
    text: str, message: str, run: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "config.yml").write_text(text)
    answer = run("health", "-c", str(tmp_path / "config.yml"))
    assert answer.code == 2
    assert message in answer.err


def test_who_may_not_ask_is_told_so_and_restarts_nothing(
    systemd: Systemd, do_heal: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(self: object) -> None:  # root may ask everybody, and tests may run as root
        raise PermissionError

    monkeypatch.setattr("runqy_agent.commands.endpoint._UnixConnection.connect", connect)
    answer = do_heal()
    assert (answer.code, answer.out) == (1, "")
    assert "permission denied; run this as root" in answer.err
    assert not systemd.restarted


def test_a_worker_that_listens_on_a_port_is_asked_there(run: Callable[..., Answer]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert run("health", "--address", address).out.startswith("unresponsive: ")


# health


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        ({}, "healthy", 0),
        ({"status": "draining"}, "draining", 0),
        ({"status": "bootstrapping"}, "not_ready", 1),
        (DEGRADED, "degraded", 1),
    ],
)
def test_health_is_zero_for_a_worker_that_is_well(
    status: dict[str, Any], state: str, code: int, worker: Worker, ask: Callable[..., Answer]
) -> None:
    worker.says(**status)
    answer = ask("health")
    assert (answer.code, answer.out.partition(":")[0]) == (code, state)
    found = ask("health", "--json")
    assert (found.code, found.json["state"]) == (code, state)


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_worker_is_not_judged_by_a_clock_that_was_set_after_it_spoke(
    ahead: int, worker: Worker, ask: Callable[..., Answer]
) -> None:
    now = time.time() + ahead
    worker.says(now=now, redis={"last_beat": now - 1}, started_at=now - 50)
    assert ask("health", "--json").json["state"] == "healthy"
    worker.says(now=now, redis={"last_beat": now - 60}, started_at=now - 90)
    assert ask("health", "--json").json["state"] == "stale"


def test_health_tells_in_json_of_which_worker_it_speaks(worker: Worker, ask: Callable[..., Answer]) -> None:
    found = ask("health", "--json").json
    assert isinstance(found.pop("seconds"), float)
    assert found == {
        "state": "healthy",
        "reason": "serving inference.high",
        "restart": False,
        "worker_id": "host:7:old",
        "version": "1.2.3",
        "samples": 1,
    }


def test_systemd_is_asked_about_the_unit_and_its_word_counts(
    worker: Worker, systemd: Systemd, ask: Callable[..., Answer]
) -> None:
    systemd.knows(FAILED)
    assert ask("health", "--unit", "u.service").out == "crashed: the service has failed (exit code 5)\n"
    systemd.knows(UnitState("failed", "failed", "watchdog"))
    assert ask("health", "--unit", "u", "--user", "--json").json["state"] == "watchdog"
    assert [call.split()[0] for call in systemd.calls("none")] == ["show", "--user"]
    systemd.knows(load="not-found")
    answer = ask("health", "--unit", "u")
    assert (answer.code, answer.out) == (1, "")
    assert "there is no unit u.service here (systemd says: not-found)" in answer.err


def test_without_systemd_a_unit_cannot_be_asked_about(
    worker: Worker, ask: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "systemctl is not installed" in ask("health", "--unit", "u").err


@pytest.mark.parametrize("form", ["{}/0", "{}/0 (TLS)", 'master "m" of the sentinels x.invalid:1, {}', "cluster {}"])
def test_of_a_stale_worker_health_tells_whether_a_restart_would_help(
    form: str, worker: Worker, ask: Callable[..., Answer]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as redis:
        address = form.format(f"127.0.0.1:{redis.getsockname()[1]}").replace("x.invalid", "127.0.0.1")
        worker.says(redis={"address": address, "last_beat": time.time() - 60})
        found = ask("health", "--json").json
        assert (found["state"], found["restart"]) == ("stale", True)
    found = ask("health", "--json").json
    assert (found["state"], found["restart"]) == ("stale", False)
    assert "cannot be reached from this host" in found["reason"]


def test_health_waits_for_so_many_healthy_looks_in_a_row(worker: Worker, ask: Callable[..., Answer]) -> None:
    starting = {"processes": {"inference": process("starting", since=time.time())}}
    looks = iter([None, worker_status(), worker_status(**starting), worker_status(), worker_status(), None])
    worker.answer = lambda: next(looks)
    found = ask("health", "--json", "--wait", "60s", *QUICK)
    assert (found.code, found.json["state"], found.json["samples"]) == (0, "healthy", 2)
    assert list(looks) == [None], "it looked no more often than it had to"


def test_a_draining_worker_is_not_what_health_waits_for(worker: Worker, ask: Callable[..., Answer]) -> None:
    worker.says(status="draining")
    found = ask("health", "--json", "--wait", "20ms", *QUICK)
    assert (found.code, found.json["state"], found.json["samples"]) == (1, "draining", 0)
    assert found.json["reason"].endswith("; the time is over")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (("--other-than", "host:7:old"), "the old worker is still there; the time is over"),
        (("--expect-version", "2.0"), "the worker has version 1.2.3 instead of 2.0; the time is over"),
        (
            ("--samples", "1000000"),
            "serving inference.high; the time is over after it was found healthy ",
        ),
    ],
)
def test_another_worker_than_the_wanted_one_or_too_few_looks_are_not_enough(
    wanted: tuple[str, str], reason: str, worker: Worker, ask: Callable[..., Answer]
) -> None:
    found = ask("health", "--json", "--wait", "20ms", *QUICK, *wanted)
    assert (found.code, found.json["state"]) == (1, "not_ready")
    assert found.json["reason"].startswith(reason)


def test_health_does_not_wait_for_a_new_worker_that_is_degraded_already(
    worker: Worker, ask: Callable[..., Answer]
) -> None:
    worker.says(**DEGRADED)
    found = ask("health", "--json", "--wait", "1h", "--other-than", "host:7:older")
    assert (found.code, found.json["state"]) == (1, "degraded")
    assert found.json["reason"].endswith("a new worker that is degraded does not get better")


def test_health_does_not_wait_for_a_unit_that_has_failed(systemd: Systemd, ask: Callable[..., Answer]) -> None:
    systemd.knows(FAILED)
    found = ask("health", "--json", "--unit", "u", "--wait", "1h")
    assert found.code == 1
    assert found.json["reason"] == "the service has failed (exit code 5); it will not be started again"


def test_a_unit_that_has_failed_and_is_being_restarted_is_waited_for(
    worker: Worker, systemd: Systemd, ask: Callable[..., Answer]
) -> None:
    systemd.knows(UnitState("failed", "failed", "exit-code", queued=True))

    def answer() -> dict[str, Any]:
        systemd.knows()
        return worker_status()

    worker.answer = answer
    assert ask("health", "--unit", "u", "--wait", "1h", *QUICK).code == 0


def test_health_gives_up_on_a_unit_that_systemd_keeps_restarting(
    worker: Worker, systemd: Systemd, ask: Callable[..., Answer]
) -> None:
    # The counter begins anew after a restart by hand.
    counts = iter([9, 0, 1, 2, 3])
    systemd.knows(UnitState("activating", "auto-restart", restarts=next(counts)))

    def answer() -> None:
        systemd.knows(UnitState("activating", "auto-restart", restarts=next(counts)))

    worker.answer = answer
    found = ask("health", "--json", "--unit", "u", "--wait", "1h", *QUICK)
    assert (found.code, found.json["state"]) == (1, "crashed")
    assert found.json["reason"].endswith("systemd has restarted it 3 times meanwhile")


def test_with_an_address_a_configuration_that_cannot_be_read_does_not_matter(
    worker: Worker, ask: Callable[..., Answer], run: Callable[..., Answer], tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.yml")
    assert ask("health", "-c", missing).code == 0
    assert run("health", "-c", missing).code == 2


# drain


def test_drain_asks_the_worker_and_waits_until_nothing_runs(worker: Worker, ask: Callable[..., Answer]) -> None:
    running = iter([2, 2, 1, 0])
    worker.answer = lambda: worker_status(running=next(running), status="draining" if worker.asked else "running")
    answer = ask("drain", "--json")
    assert answer.code == 0
    assert answer.json == {"worker_id": "host:7:old", "status": "draining", "running": 0, "done": True}
    assert worker.asked == ["/drain"]


def test_drain_is_one_while_tasks_are_running_at_the_deadline(worker: Worker, ask: Callable[..., Answer]) -> None:
    worker.says(running=2, status="draining")
    answer = ask("drain", "--wait", "10ms")
    assert (answer.code, answer.out) == (1, "draining, 2 tasks are running\n")


def test_undo_waits_until_the_worker_runs(worker: Worker, ask: Callable[..., Answer]) -> None:
    states = iter(["draining", "draining", "running"])
    worker.answer = lambda: worker_status(status=next(states))
    assert ask("drain", "--undo").code == 0
    assert worker.asked == ["/resume"]


def test_a_worker_that_is_starting_is_drained_when_it_runs(worker: Worker, ask: Callable[..., Answer]) -> None:
    worker.says(status="bootstrapping")
    assert ask("drain", "--wait", "10ms").code == 1
    assert worker.asked == []
    states = iter(["bootstrapping", "running", "running", "draining"])
    worker.answer = lambda: worker_status(status=next(states))
    assert ask("drain").code == 0
    assert worker.asked == ["/drain"]


REDEPLOYED = {"redeploy": {"number": 1, "running": False, "at": 1.0, "results": {}}}


@pytest.mark.parametrize(("command", "after"), [("drain", {"status": "draining"}), ("redeploy", REDEPLOYED)])
def test_with_a_unit_only_its_main_process_is_asked(
    command: str, after: dict[str, Any], worker: Worker, systemd: Systemd, ask: Callable[..., Answer]
) -> None:
    worker.answer = lambda: worker_status(pid=88, **(after if worker.asked else {}))
    systemd.knows(UnitState("active", "running", pid=88))  # what the worker says of itself does not count
    foreign = ask(command, "--unit", "u")
    assert (foreign.code, foreign.out) == (1, "")
    assert f"the worker that answers is process {os.getpid()}, not that of u.service, which is 88" in foreign.err
    systemd.knows(UnitState())
    assert "u.service has no process: it is inactive (dead)" in ask(command, "--unit", "u").err
    assert worker.asked == []
    systemd.knows(UnitState("active", "running", pid=os.getpid()))
    assert ask(command, "--unit", "u").code == 0
    assert worker.asked == [f"/{command}"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (403, "belongs to somebody else; run this as root or as its user"),
        (401, "wants its token, which cannot be read here"),
        (405, "is of a version that cannot be asked for this"),
        (409, "the worker does not do that now"),
        (404, "is not a worker's status endpoint"),
        (500, "no worker answers at"),
    ],
)
@pytest.mark.parametrize("command", ["drain", "redeploy"])
def test_a_worker_that_refuses_is_an_error(
    command: str, code: int, message: str, worker: Worker, ask: Callable[..., Answer]
) -> None:
    worker.refusal = (code, "the worker does not do that now")
    answer = ask(command, "--json")
    assert (answer.code, answer.out) == (1, "")
    assert message in answer.err


@pytest.mark.parametrize("command", ["drain", "redeploy"])
def test_no_process_is_signalled_whatever_the_endpoint_says(
    command: str, worker: Worker, ask: Callable[..., Answer]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        worker.answer = lambda: worker_status(pid=victim.pid, **({"status": "draining"} | REDEPLOYED))
        ask(command, "--wait", "10ms")
        state = psutil.Process(victim.pid).status()
        assert victim.poll() is None
        assert state != psutil.STATUS_STOPPED
        victim.communicate(b"\n", timeout=60)
        assert victim.returncode == 0


# heal


@pytest.mark.parametrize(
    "status",
    [{}, {"status": "draining"}, {"status": "bootstrapping", "started_at": time.time() + 3600}],
    ids=["healthy", "draining", "starting"],
)
def test_heal_leaves_a_worker_alone_that_needs_nothing(
    status: dict[str, Any], worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    worker.says(**status)
    answer = do_heal()
    assert (answer.code, answer.json["action"], answer.json["log"]) == (0, "none", [])
    assert systemd.calls() == []
    assert not (tmp_path / "records" / "u.jsonl").exists()


def test_heal_leaves_a_service_alone_that_somebody_has_stopped(
    systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    systemd.knows(UnitState("inactive", "dead"))
    answer = do_heal()
    assert (answer.code, answer.json["state"], answer.json["action"]) == (0, "stopped", "none")
    assert not systemd.restarted


def test_heal_restarts_a_sick_worker_records_it_and_sees_that_a_new_one_is_healthy(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = do_heal("--trigger", "timer", "--verify", "60s")
    assert answer.code == 0
    reason = "given up: inference is degraded (exited with code 3)"
    assert answer.json == {
        "unit": "u.service",
        "state": "degraded",
        "reason": reason,
        "action": "restarted",
        "before": "host:7:old",
        "worker_id": "new",
        "restarts_last_hour": 1,
        "log": [],
    }
    assert systemd.calls() == ["reset-failed u.service", "restart --no-block u.service"]
    (record,) = records(tmp_path)
    assert abs(record.pop("time") - time.time()) < 60
    expected = {"worker_id": "host:7:old", "state": "degraded", "reason": reason, "trigger": "timer"}
    assert record == expected | {"result": "restarted"}


def test_a_restart_is_recorded_before_it_is_made(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    do_heal("--verify", "60s", "--trigger", "timer")
    (before,), (after,) = systemd.recorded(), records(tmp_path)
    assert before["result"] == "restarting"
    assert before["trigger"] == "timer"
    assert after == before | {"result": "restarted"}


@pytest.mark.parametrize("state", [FAILED, UnitState("failed", "failed", "watchdog"), UnitState("active", "running")])
def test_heal_restarts_a_service_that_failed_or_says_nothing(
    state: UnitState, worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    systemd.knows(state)
    systemd.knows(after_restart=True)
    worker.answer = lambda: worker_status() if systemd.restarted else None
    answer = do_heal("--verify", "60s")
    assert (answer.code, answer.json["action"], answer.json["before"]) == (0, "restarted", "")


def test_one_answer_that_is_missing_is_not_yet_silence(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "ANSWER_SECONDS", 60.0)
    monkeypatch.setattr(look, "LOOK_SECONDS", 0.001)
    looks = iter([None, None, worker_status()])
    worker.answer = lambda: next(looks)
    assert do_heal().json["state"] == "healthy"
    assert not systemd.restarted


def test_a_restart_that_does_not_help_ends_in_one_with_both_reasons_and_the_log(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    worker.answer = lambda: None if systemd.restarted else worker_status(**DEGRADED)
    systemd.knows(FAILED, after_restart=True)
    answer = do_heal("--log-lines", "5")
    assert (answer.code, answer.json["action"]) == (1, "failed")
    assert answer.json["reason"] == (
        "given up: inference is degraded (exited with code 3); after a restart: the service has failed (exit code 5); "
        "it will not be started again"
    )
    assert answer.json["log"] == ["one", "last words"]
    assert systemd.calls()[-1] == "journalctl --no-pager --output=cat --lines=5 --unit=u.service"
    assert records(tmp_path)[0]["result"] == "failed"


def test_the_old_worker_that_recovers_is_no_proof_of_a_restart(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    worker.answer = lambda: worker_status() if systemd.restarted else worker_status(**DEGRADED)
    answer = do_heal()
    assert (answer.code, answer.json["action"]) == (1, "failed")
    assert "after a restart: the old worker is still there" in answer.json["reason"]


def test_a_restart_that_systemd_refuses_is_told_and_counts(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    systemd.refuses("access denied")
    answer = do_heal()
    assert (answer.code, answer.json["action"], answer.json["restarts_last_hour"]) == (1, "failed", 1)
    assert "the restart failed: systemctl restart --no-block u.service: access denied" in answer.json["reason"]
    assert records(tmp_path)[0]["result"] == "failed"


def test_after_so_many_restarts_within_an_hour_heal_only_tells(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    worker.says(**DEGRADED)
    kept = Records(tmp_path / "records", "u.service")
    with kept.locked():
        kept.add({"time": time.time() - 3700})  # too long ago to count
        kept.add({"time": time.time() - 3500})
    assert [do_heal("--max-per-hour", "2").json["action"] for _ in range(2)] == ["failed", "limit_reached"]
    answer = do_heal("--max-per-hour", "2")
    assert (answer.code, answer.json["restarts_last_hour"]) == (1, 2)
    assert "it was restarted 2 times within the hour, which is the limit" in answer.json["reason"]
    assert answer.json["log"] == ["one", "last words"]
    assert restarts_of(systemd) == 1
    assert do_heal("--max-per-hour", "0").json["action"] == "limit_reached"


@pytest.mark.parametrize(("minutes", "counted"), [(61, 0), (59, 1), (0, 1), (-59, 1), (-61, 0), (-60 * 24, 0)])
def test_restarts_less_than_an_hour_away_count_also_if_the_clock_was_set_back_since(
    minutes: int, counted: int, tmp_path: Path
) -> None:
    now = 1_700_000_000.0
    kept = Records(tmp_path / "records", "u.service")
    with kept.locked():
        kept.add({"time": now - minutes * 60})
        assert kept.within_an_hour_of(now) == counted


def test_a_damaged_line_does_not_spoil_the_records(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "u.jsonl").write_bytes(b'{"time": 1}\n{"time": "soon"}\n[]\n\xff{"tim')
    assert do_heal("--verify", "60s").code == 0
    assert [record["time"] for record in records(tmp_path)[:-1]] == [1]


def test_a_dry_run_touches_nothing(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = do_heal("--dry-run")
    assert (answer.code, answer.json["action"], answer.json["restarts_last_hour"]) == (1, "would_restart", 0)
    assert systemd.calls() == []
    assert not (tmp_path / "records" / "u.jsonl").exists()


def test_two_heals_of_one_unit_do_not_overlap(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    with Records(tmp_path / "records", "u.service").locked():
        answer = do_heal()
    assert (answer.code, answer.out) == (1, "")
    assert "u is being healed already" in answer.err
    assert not systemd.restarted


def test_where_no_records_can_be_kept_nothing_is_restarted(
    sick: Worker, systemd: Systemd, do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "records").write_text("a file")
    answer = do_heal()
    assert answer.code == 1
    assert f"records cannot be kept in {tmp_path}/records" in answer.err
    assert not systemd.restarted


def test_a_stale_worker_is_restarted_if_redis_can_be_reached_and_it_does_not_beat_then_either(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as redis:
        address = f"127.0.0.1:{redis.getsockname()[1]}/0"
        silence = worker_status(redis={"address": address, "last_beat": time.time() - 60})
        looks = iter([silence, worker_status()])  # Redis had been away, and it beats again
        worker.answer = lambda: next(looks)
        assert do_heal().json["action"] == "none"
        worker.answer = lambda: worker_status(worker_id="new") if systemd.restarted else silence
        assert do_heal("--verify", "60s").json["action"] == "restarted"


def test_a_worker_whose_redis_is_away_is_unhealthy_and_not_restarted(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    worker.says(redis={"last_beat": time.time() - 60})
    answer = do_heal()
    assert (answer.code, answer.json["state"], answer.json["action"]) == (1, "stale", "none")
    assert answer.json["log"] == ["one", "last words"]
    assert not systemd.restarted


def test_heal_of_a_users_unit_speaks_to_the_users_systemd(
    worker: Worker, systemd: Systemd, do_heal: Callable[..., Answer]
) -> None:
    worker.says(**DEGRADED)
    do_heal("--user", "--verify", "10ms")
    assert systemd.calls() == [
        "--user reset-failed u.service",
        "--user restart --no-block u.service",
        "journalctl --user --no-pager --output=cat --lines=30 --user-unit=u.service",
    ]


def test_without_json_heal_tells_people(
    sick: Worker, systemd: Systemd, ask: Callable[..., Answer], do_heal: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = ask("heal", "--unit", "u", "--records", str(tmp_path / "records"), "--max-per-hour", "0")
    assert answer.out.startswith("u.service: degraded, limit reached: given up: inference is degraded")
    assert answer.out.endswith("\n  one\n  last words\n")


# All of them


@pytest.mark.parametrize(
    "arguments",
    [
        ["heal"],
        ["health", "--wait", "soon"],
        ["health", "--samples", "0"],
        ["heal", "--unit", "u", "--max-per-hour", "-1"],
        ["drain", "--undone"],
        ["status", "-validate"],
    ],
)
def test_a_wrong_argument_exits_with_2(arguments: list[str], run: Callable[..., Answer]) -> None:
    answer = run(*arguments)
    assert answer.code == 2
    assert "usage: runqy-agent" in answer.err


def test_the_commands_load_next_to_nothing() -> None:
    program = (
        "import sys; from runqy_agent.cli import main\n"
        "for command in ('health', 'status', 'drain'): main([command, '--address', '/nowhere'])\n"
        "main(['heal', '--address', '/nowhere', '--unit', 'u', '--records', '/dev/null'])\n"
        "heavy = {'redis', 'httpx', 'google.protobuf', 'asyncio', 'psutil', 'prometheus_client'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr
