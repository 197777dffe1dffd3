"""What children inherit is what the documentation lists; what an operator passes on besides is not the agent's."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from runqy_agent.child_environment import (
    ACCELERATORS,
    BUILD,
    EVERY_CHILD,
    GIT,
    PROCESS,
    Names,
    inherit,
    passed,
    secrets_in,
)
from runqy_agent.process.environment import process_environment
from runqy_agent.process.gpus import find_gpus
from runqy_agent.reporting.metrics import HostMetrics
from set_clock import SetClock
from task_kit import NOW

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
MODELS = {
    *("HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME"),
    *("TORCH_CUDA_ARCH_LIST", "PYTORCH_CUDA_ALLOC_CONF"),
}
SECRET = {
    *("HF_TOKEN", "HUGGINGFACE_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TORCH_API_KEY", "TRANSFORMERS_SECRET", "PYTORCH_KEY"),
    *("NVIDIA_API_KEY", "CUDA_PASSWORD", "HF_TOKENS", "HF_apikey", "NCCL_CREDENTIALS", "OMP_PASS", "LC_TOKEN"),
}


def listed(kind: str) -> set[str]:
    """The names on the page after these words."""
    paragraph = re.search(rf"^\*\*{re.escape(kind)}:\*\* (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert paragraph is not None
    return set(re.findall(r"`([^`]+)`", paragraph[1]))


def names(of: Names) -> set[str]:
    return {*of.whole, *of.patterns}


def test_the_documentation_lists_what_each_kind_of_child_inherits() -> None:
    every, accelerators = listed("Every child"), listed("Build tools and Git requirements, and the supervised process")
    assert names(EVERY_CHILD) == every
    assert names(ACCELERATORS) == accelerators
    assert names(PROCESS) == every | accelerators | listed("The supervised process")
    assert names(GIT) == every | listed("Git")
    assert names(BUILD) == every | accelerators | listed("uv, pip, build backends and Poetry")


def test_model_caches_and_settings_of_pytorch_reach_the_process_and_no_tokens() -> None:
    source = dict.fromkeys(MODELS | SECRET, "x") | {"PATH": "/bin"}
    assert inherit(PROCESS, source).keys() == MODELS | {"PATH"}
    assert inherit(EVERY_CHILD, source) == {"PATH": "/bin"}
    assert inherit(BUILD, {"UV_INDEX_COMPANY_PASSWORD": "x", "UV_INDEX_COMPANY_TOKEN": "x"}).keys() == {
        "UV_INDEX_COMPANY_PASSWORD",
        "PATH",
    }


def test_a_child_has_a_path_in_any_case() -> None:
    assert inherit(EVERY_CHILD, {}) == {"PATH": os.defpath}
    assert inherit(EVERY_CHILD, {"PATH": "/bin"}) == {"PATH": "/bin"}


def test_an_operator_passes_names_and_patterns_on() -> None:
    source = dict.fromkeys(("AWS_REGION", "AWS_SECRET_ACCESS_KEY", "MODEL_DIR", "MODEL", "XAWS_A", "aws_x"), "value")
    assert passed(["AWS_*", "MODEL"], [], source).keys() == {"AWS_REGION", "AWS_SECRET_ACCESS_KEY", "MODEL"}
    assert passed(["MODEL?DIR"], [], source).keys() == {"MODEL_DIR"}
    assert passed([], [], source) == {}


@pytest.mark.parametrize("pattern", ["*", "R*", "*_*", "[A-Z]*", "?*"])
def test_what_is_the_agents_own_is_not_passed_on_by_any_pattern(pattern: str) -> None:
    own = {
        *(
            "RUNQY_API_KEY",
            "RUNQY_X",
            "RUNQY_",
            "runqy_api_key",
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
        ),
        *("WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "SUPERVISED_PROCESS_ID", "SUPERVISED_BY"),
    }
    assert passed([pattern, *own], [], dict.fromkeys(own, "x")) == {}


def test_a_variable_that_holds_a_secret_of_the_agent_is_not_passed_on_under_any_name() -> None:
    key, pin = "fleet-key-12345678", "1234"
    source = {
        "FLEET_KEY": key,
        "URL": f"https://x:{key}@h/",
        "HALF": key[:9],
        "PIN": pin,
        "FINE": "x1234x",  # so short a secret may be part of anything
        "EMPTY": "",
        "PART": "key",
    }
    assert passed(["*"], [key, pin, ""], source) == {"FINE": "x1234x", "EMPTY": "", "PART": "key"}


def test_variables_of_the_deployment_win_over_what_is_passed_on_and_that_over_nothing_else() -> None:
    made = process_environment(
        None, {"A": "author"}, {"B": "vault"}, passed={"A": "1", "B": "2", "C": "3"}, inherited={}
    )
    assert (made["A"], made["B"], made["C"]) == ("author", "vault", "3")


def test_what_stands_before_the_at_sign_of_a_url_is_a_secret_and_nothing_short_or_else() -> None:
    environment = {
        "PIP_INDEX_URL": "https://ci:p%40ssword@h/simple",
        "PIP_EXTRA_INDEX_URL": "https://token-1@a/ HTTP://token-2@b/",
        "GIT": "ssh://git@github.com/x",
        "UV_INDEX_A_PASSWORD": "for-uv",
        "SHORT": "https://a@b/",
        "PATH": "/usr/bin",
    }
    expected = {"ci:p%40ssword", "p%40ssword", "p@ssword", "token-1", "token-2", "for-uv"}
    assert set(secrets_in(environment)) == expected


def test_nvidia_smi_finds_nothing_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, seen = tmp_path / "nvidia-smi", tmp_path / "seen"
    program.write_text(f"#!/bin/sh\nenv -0 >>{seen}\necho 0\n", encoding="utf-8")
    program.chmod(0o755)
    for name in os.environ:
        monkeypatch.delenv(name)
    for name in ("FLEET_KEY", "RUNQY_API_KEY", "NVIDIA_API_KEY", "LD_PRELOAD", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("NVIDIA_DRIVER", "x")

    async def ask() -> None:
        assert await find_gpus() == ["0"]
        json.loads(await HostMetrics(SetClock(NOW)).read())

    asyncio.run(ask())
    entries = [entry for entry in seen.read_text(encoding="utf-8").split("\0") if entry]
    assert {entry.partition("=")[0] for entry in entries} - {"PWD", "_", "SHLVL"} == {"PATH", "NVIDIA_DRIVER"}
    assert sum(entry.startswith("PATH=") for entry in entries) == 2  # both have started it
