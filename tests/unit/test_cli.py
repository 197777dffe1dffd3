from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from runqy_agent import errors, service
from runqy_agent._version import __version__
from runqy_agent.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.config import Config

FILE = "server: {url: 'https://h', api_key: hush-hush}\nworker: {queue: inference, concurrency: 2}\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yml"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RUNQY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Puts a service in place that only remembers its settings and ends with 42."""
    seen: list[Config] = []

    def run(config: Config, reread: Callable[[], Config]) -> int:
        assert reread() == config
        seen.append(config)
        return 42

    monkeypatch.setattr(service, "run_service", run)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-config", "FILE"],
        ["run", "--config", "FILE"],
        ["run", "-c", "FILE"],
        ["-config", "FILE"],
        ["-config=FILE"],
        ["--config=FILE"],
        ["-config", "FILE", "run"],
    ],
)
def test_every_form_of_run_serves_the_file_and_returns_the_code_of_the_service(
    arguments: list[str], file: str, served: list[Config]
) -> None:
    assert main([argument.replace("FILE", file) for argument in arguments]) == 42
    assert served[0].queues() == ["inference"]


def test_settings_on_the_command_line_override_the_file(file: str, served: list[Config]) -> None:
    arguments = [
        "--set",
        "log.level=debug",
        "run",
        "-c",
        file,
        "--set",
        "worker.concurrency=5",
        "--set",
        "git.ssh_key=",
    ]
    assert main(arguments) == 42
    assert (served[0].worker.concurrency, served[0].log.level) == (5, "debug")


def test_without_arguments_the_environment_is_served(monkeypatch: pytest.MonkeyPatch, served: list[Config]) -> None:
    monkeypatch.setenv("RUNQY_SERVER_URL", "https://env")
    monkeypatch.setenv("RUNQY_API_KEY", "k")
    monkeypatch.setenv("RUNQY_QUEUES", "a,b")
    assert main([]) == 42
    assert served[0].server.url == "https://env"


def test_a_file_that_was_not_named_is_not_read(
    file: str, served: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.path.exists(file)  # noqa: PTH110 - in the current directory, under the usual name
    assert main([]) == 2
    assert "usage: runqy-agent" in capsys.readouterr().err
    assert main(["run"]) == 2
    assert "server.url: required" in capsys.readouterr().err
    assert served == []


@pytest.mark.parametrize("arguments", [["validate", "-config", "FILE"], ["-config", "FILE", "-validate"]])
def test_validate_says_what_is_valid_without_a_secret(
    arguments: list[str], file: str, served: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("FILE", file) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("configuration is valid\n")
    assert "https://h" in out
    assert "inference" in out
    assert "hush" not in out + err
    assert err == ""
    assert served == []


def test_validate_shows_warnings(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-c", file, "--set", "worker.processes=3"]) == 0
    expected = "runqy-agent: warning: command line: worker.processes: found 3, more than worker.concurrency (2): "
    assert capsys.readouterr().err.startswith(expected)


def test_each_problem_is_a_line(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", "-c", file, "--set", "worker.concurrency=x", "--set", "server.api_key=hush-hush"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("runqy-agent: command line: worker.concurrency: ")
    assert "use server.api_key_file" in lines[1]
    assert "hush" not in "".join(lines)


@pytest.mark.parametrize("arguments", [["version"], ["-version"], ["--version"]])
def test_version_prints_the_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"runqy-agent {__version__} ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bogus"],
        ["bogus"],
        ["run", "--set", "no-equals-sign"],
        ["-config"],
        ["-validate", "run"],
        ["-validate", "-version"],
        ["run", "--conf", "x"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: runqy-agent" in capsys.readouterr().err


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for code in errors.ExitCode:
        assert f"\n  {code.value}  " in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RunqyAgentError("a\nb"), 1),
        (errors.ConfigError(["a", "b"]), 2),
        (errors.RegistrationError("a\nb"), 3),
        (errors.GitError("a\nb"), 4),
        (errors.ProcessNotReadyError("a\nb"), 5),
        (errors.BrokerError("a\nb"), 6),
    ],
)
def test_an_error_ends_in_its_exit_code_and_lines_for_people(
    error: Exception, code: int, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(service, "run_service", fail)
    assert main(["run", "-c", file]) == code
    assert capsys.readouterr().err == "runqy-agent: a\nrunqy-agent: b\n"


def test_an_unexpected_error_is_logged_with_its_traceback_and_ends_in_1(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "run_service", fail)
    assert main(["run", "-c", file]) == 1
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo"], {"keep": False, "playbook": None}),
        (["demo", "--keep", "--playbook", "deploy.yml"], {"keep": True, "playbook": Path("deploy.yml")}),
    ],
)
def test_demo_needs_no_configuration(
    arguments: list[str], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run_demo(**options: object) -> int:
        seen.append(options)
        return 7

    module = ModuleType("runqy_agent.demo.main")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runqy_agent.demo", ModuleType("runqy_agent.demo"))
    monkeypatch.setitem(sys.modules, "runqy_agent.demo.main", module)
    assert main(arguments) == 7
    assert seen == [expected]


def test_a_file_is_valid_for_root_who_knows_where_the_credentials_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "api_key").write_text("hush-hush\n")
    path = tmp_path / "config.yml"
    path.write_text(
        "server: {url: 'https://h', api_key_file: '${CREDENTIALS_DIRECTORY}/api_key'}\nworker: {queue: inference}\n"
    )
    monkeypatch.setenv("RUNQY_CONFIG", str(path))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert main(["validate"]) == 2
    assert "CREDENTIALS_DIRECTORY is not set" in capsys.readouterr().err
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert main(["validate"]) == 0


def test_the_module_runs_like_the_command() -> None:
    command = [sys.executable, "-m", "runqy_agent", "version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"runqy-agent {__version__}")
