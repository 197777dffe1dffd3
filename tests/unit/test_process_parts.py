"""The small parts around the supervised process: environment, start command, recovery, tasks in flight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runqy_agent.config.duration import Duration
from runqy_agent.config.settings import RecoverySettings
from runqy_agent.errors import DeploymentError
from runqy_agent.process.command import check_program, split_command
from runqy_agent.process.environment import process_environment
from runqy_agent.process.recovery import JITTER, Recovery
from runqy_agent.process.runner import BaseRunner, InFlight
from runqy_agent.process.vault_names import refused_names
from set_clock import SetClock
from task_kit import NOW, taken

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome

VENV = Path("/srv/env")
AGENTS_OWN = {
    "RUNQY_API_KEY": "secret-key",
    "RUNQY_GIT_TOKEN": "secret-token",
    "RUNQY_REDIS_PASSWORD": "secret-password",
    "CREDENTIALS_DIRECTORY": "/run/credentials/runqy-agent",
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "WATCHDOG_USEC": "60000000",
    "WATCHDOG_PID": "1",
    "JOURNAL_STREAM": "8:1234",
    "GIT_ASKPASS": "/usr/bin/askpass",
    "AWS_SECRET_ACCESS_KEY": "secret-aws",
    "SSH_AUTH_SOCK": "/run/agent.sock",
    "PYTHONPATH": "/opt/agent",
    "VIRTUAL_ENV": "/opt/agent",
    "LD_PRELOAD": "/opt/lib.so",
}


def environment(
    inherited: dict[str, str] | None = None,
    env_vars: dict[str, str] | None = None,
    vaults: dict[str, str] | None = None,
    virtualenv: Path | None = VENV,
) -> dict[str, str]:
    return process_environment(virtualenv, env_vars or {}, vaults or {}, inherited=inherited or {})


# Environment.


def test_nothing_of_the_agents_own_environment_reaches_the_process_unless_it_is_on_the_list() -> None:
    made = environment(AGENTS_OWN, virtualenv=None)
    assert not made.keys() & AGENTS_OWN.keys()
    assert set(made) == {"PATH", "LANG", "PYTHONUNBUFFERED", "PYTHONIOENCODING"}


def test_the_agents_secrets_do_not_reach_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AGENTS_OWN.items():
        monkeypatch.setenv(name, value)
    made = process_environment(None, {}, {})
    assert not made.keys() & AGENTS_OWN.keys()
    assert "secret" not in " ".join(made.values())


@pytest.mark.parametrize(
    "name",
    ["HOME", "LANG", "LC_ALL", "TZ", "HTTPS_PROXY", "no_proxy", "CUDA_VISIBLE_DEVICES", "NVIDIA_X", "OMP_NUM_THREADS"],
)
def test_what_programs_need_to_work_is_inherited(name: str) -> None:
    assert environment({name: "kept"})[name] == "kept"


def test_the_virtualenv_comes_first_on_path() -> None:
    made = environment({"PATH": "/usr/bin"})
    assert (made["VIRTUAL_ENV"], made["PATH"]) == ("/srv/env", "/srv/env/bin:/usr/bin")


def test_the_deployments_variables_win_over_inherited_ones_and_vaults_over_both() -> None:
    made = environment({"TZ": "UTC"}, {"TZ": "CET", "MODEL": "small", "KEY": "plain"}, {"KEY": "vault"})
    assert (made["TZ"], made["MODEL"], made["KEY"]) == ("CET", "small", "vault")


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "GCONV_PATH", "PATH", "VIRTUAL_ENV",
        "PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "BASH_ENV", "ENV", "IFS", "BASH_FUNC_x%%", "NODE_OPTIONS",
        "", "A=B", "1A", "A B", "A\n",
    ],
)  # fmt: skip
def test_a_vault_cannot_change_how_programs_are_loaded(name: str) -> None:
    assert refused_names({name: "x", "FINE": "y"}) == [name]
    without = environment({"PATH": "/usr/bin"}, vaults={"FINE": "y"})
    assert environment({"PATH": "/usr/bin"}, vaults={name: "x", "FINE": "y"}) == without


@pytest.mark.parametrize("name", ["API_KEY", "HF_TOKEN", "LDAP_URL", "MY_PATH", "PGPASSWORD", "_x"])
def test_an_ordinary_vault_value_is_set(name: str) -> None:
    assert refused_names({name: "x"}) == []
    assert environment(vaults={name: "x"})[name] == "x"


# Start command.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python main.py", ("/env/python", "main.py")),
        ("python3 -u 'my main.py' --name=\"a b\"", ("/env/python", "-u", "my main.py", "--name=a b")),
        ("python3.12 main.py", ("python3.12", "main.py")),
        ("serve python $HOME; rm -rf *", ("serve", "python", "$HOME;", "rm", "-rf", "*")),
    ],
)
def test_a_start_command_is_split_like_a_shell_would_without_being_one(text: str, words: tuple[str, ...]) -> None:
    assert split_command(text, Path("/env/python")) == words


@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty"), ("  ", "empty"), ("python 'main.py", "No closing quotation")]
)
def test_a_start_command_that_starts_nothing_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DeploymentError, match=f"startup_cmd.*{reason}"):
        split_command(text, Path("/env/python"))


# Recovery.


def recovery(**settings: object) -> tuple[Recovery, SetClock]:
    clock = SetClock(NOW)
    made = RecoverySettings(
        initial_delay=Duration(1), max_delay=Duration(10), backoff_factor=2.0, cooldown_period=Duration(600)
    )
    for name, value in settings.items():
        setattr(made, name, value)
    return Recovery(made, clock), clock


def test_delays_double_up_to_the_longest_with_a_little_jitter() -> None:
    counting, _ = recovery(max_restarts=100)
    for expected in (1, 2, 4, 8, *[10] * 90):
        delay = counting.crashed()
        assert delay is not None
        assert expected * (1 - JITTER) <= delay <= expected * (1 + JITTER)


def test_no_number_of_crashes_overflows() -> None:
    counting, _ = recovery(max_restarts=10_000, backoff_factor=1e9)
    for _ in range(1000):
        delay = counting.crashed()
        assert delay is not None
        assert delay <= 10 * (1 + JITTER)


def test_after_max_restarts_the_process_stays_down() -> None:
    counting, _ = recovery(max_restarts=3)
    assert [counting.crashed() is None for _ in range(5)] == [False, False, False, True, True]
    assert (counting.consecutive_fails, counting.total_restarts) == (5, 3)


def test_being_up_for_the_cooldown_period_forgives_earlier_crashes() -> None:
    counting, clock = recovery(max_restarts=1)
    assert counting.crashed() is not None
    counting.became_ready()
    clock.advance(600)
    assert counting.crashed() is not None
    assert (counting.consecutive_fails, counting.total_restarts) == (1, 2)


def test_being_up_for_less_than_the_cooldown_period_forgives_nothing() -> None:
    counting, clock = recovery(max_restarts=1)
    assert counting.crashed() is not None
    counting.became_ready()
    clock.advance(599)
    assert counting.crashed() is None


def test_time_spent_down_is_no_time_spent_up() -> None:
    counting, clock = recovery(max_restarts=1)
    counting.became_ready()
    assert counting.crashed() is not None
    clock.advance(10_000)
    assert counting.crashed() is None


@pytest.mark.parametrize("settings", [{"enabled": False}, {"max_restarts": 0}])
def test_without_recovery_the_first_crash_is_final(settings: dict[str, object]) -> None:
    counting, _ = recovery(**settings)
    assert counting.crashed() is None
    assert counting.total_restarts == 0


# Tasks in flight.


def test_a_second_task_of_the_same_id_waits_for_the_first() -> None:
    flight = InFlight()
    first, second, third = taken("a"), taken("a", queue="q.other"), taken("b")
    assert [flight.add(task) for task in (first, second, third)] == [True, False, True]
    assert flight.next_waiting("b") is None
    assert flight.remove(first)
    assert flight.next_waiting("a") is second
    assert flight.tasks["a"] is second
    assert flight.waiting == []


def test_forgetting_a_task_does_not_touch_another_of_the_same_id() -> None:
    flight = InFlight()
    first, second = taken("a"), taken("a", queue="q.other")
    flight.add(first)
    flight.add(second)
    assert not flight.remove(second)  # it was never in flight
    assert flight.waiting == []
    assert flight.tasks == {"a": first}


def test_emptying_gives_the_tasks_oldest_first() -> None:
    flight = InFlight()
    tasks = [taken("c"), taken("a"), taken("b"), taken("a", queue="q.other")]
    for task in tasks:
        flight.add(task)
    assert flight.take_all() == tasks
    assert flight.take_all() == []


# Health.


class Told:
    """A sink that counts what it is told."""

    def __init__(self) -> None:
        self.changes = 0

    def finished(self, task: TakenTask, outcome: Outcome) -> None: ...

    def wake(self) -> None: ...

    def health_changed(self) -> None:
        self.changes += 1


def test_a_state_lasts_since_it_was_entered_however_often_its_reason_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing(BaseRunner):
        became = BaseRunner._became

    clock = SetClock(NOW)
    monkeypatch.setattr("runqy_agent.process.runner.monotonic", clock.monotonic)
    runner, told = Crashing("inference"), Told()
    runner.attach(told)
    runner.became("ready")
    clock.advance(10)
    runner.became("recovering", "it crashed")
    entered = clock.now()
    clock.advance(10)
    runner.became("recovering", "it did not become ready")
    assert (runner.health.since, runner.health.reason) == (entered, "it did not become ready")
    clock.advance(10)
    runner.became("ready")
    assert runner.health.since == clock.now()
    assert told.changes == 4


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What tells of an environment that it is one of Python 3.11."""
    environment = tmp_path / "environment"
    (environment / "lib" / "python3.11").mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "pyvenv.cfg").touch()
    for name in ("python", "python3", "python3.11"):
        (environment / "bin" / name).touch()
    return environment


@pytest.mark.parametrize(
    "argv", [("python3.10", "main.py"), ("/usr/bin/python3", "x"), ("env", "A=1", "python3.9", "x")]
)
def test_an_interpreter_that_is_not_the_environments_is_refused_with_both_versions(
    installed: Path, argv: tuple[str, ...]
) -> None:
    with pytest.raises(
        DeploymentError, match=r"python3?(\.\d+)?.*not the interpreter of the environment \(python3\.11\)"
    ):
        check_program(argv, installed, installed)


@pytest.mark.parametrize(
    "argv", [("python3.11", "main.py"), ("nice", "python", "x"), ("gunicorn", "python3.9"), ("./run",)]
)
def test_the_environments_own_interpreter_and_other_programs_are_started(
    installed: Path, argv: tuple[str, ...]
) -> None:
    check_program(argv, installed, installed)


@pytest.mark.parametrize("argv", [("./start.sh",), ("bash", "start.sh")])
def test_a_start_script_with_windows_line_ends_is_named_as_such(tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "start.sh").write_bytes(b"#!/bin/sh\r\nexec python main.py\r\n")
    with pytest.raises(DeploymentError, match=r"start\.sh, which has Windows line ends"):
        check_program(argv, tmp_path, tmp_path)
    (tmp_path / "start.sh").write_bytes(b"#!/bin/sh\nexec python main.py\n")
    check_program(argv, tmp_path, tmp_path)
