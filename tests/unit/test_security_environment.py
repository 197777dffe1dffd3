"""The environment of the supervised process is an allow-list, and a vault value is data: it starts nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runqy_agent.process.environment import process_environment
from runqy_agent.process.vault_names import refused_names

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("LD_LIBRARY_PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "NVIDIA_X", "NCCL_X", "HIP_X", "ROCR_X", "OMP_X", "MKL_X"),
}
AGENTS_AND_STRANGERS = {
    *("RUNQY_API_KEY", "RUNQY_GIT_TOKEN", "RUNQY_REDIS_PASSWORD", "RUNQY_", "runqy_api_key", "CREDENTIALS_DIRECTORY"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "INVOCATION_ID", "JOURNAL_STREAM"),
    *("AGENT_GIT_TOKEN", "GIT_ASKPASS", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK", "SSH_ASKPASS", "REDISCLI_AUTH", "DISPLAY"),
    *("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "KUBECONFIG", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "_", "PWD"),
    *("LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "ENV", "IFS", "VIRTUAL_ENV", "PIP_INDEX_URL", "UV_INDEX_URL", "Path", ""),
    *("XCUDA_VISIBLE_DEVICES", "cuda_visible_devices", "MY_PATH", "HOMER", "PATH2", "LCX", "OMPX"),
}


def test_exactly_the_allowed_names_are_inherited() -> None:
    source = dict.fromkeys(ALLOWED | AGENTS_AND_STRANGERS, "value")
    made = process_environment(None, {}, {}, inherited=source)
    assert made.keys() == ALLOWED | {"PYTHONUNBUFFERED", "PYTHONIOENCODING"}


def test_a_process_started_with_it_finds_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AGENTS_AND_STRANGERS - {""}:
        monkeypatch.setenv(name, "agent's own")
    show = "import os; print('\\n'.join(os.environ))"
    made = process_environment(None, {"MODEL": "small"}, {"HF_TOKEN": "x"})
    command = [sys.executable, "-I", "-S", "-c", show]
    seen = set(subprocess.run(command, env=made, check=True, capture_output=True, text=True).stdout.split())
    assert seen & AGENTS_AND_STRANGERS <= {"LC_CTYPE"}
    assert {"MODEL", "HF_TOKEN"} <= seen
    assert "agent's own" not in made.values()


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "LD_DEBUG_OUTPUT", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH",
        "PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "PYTHONBREAKPOINT", "PYTHONINSPECT", "PYTHONPYCACHEPREFIX", "PATH",
        "HOME", "VIRTUAL_ENV", "BASH_ENV", "ENV", "SHELLOPTS", "PS4", "IFS", "SHELL", "BASH_FUNC_ls%%",
        "PERL5LIB", "PERL5OPT", "RUBYOPT", "RUBYLIB", "NODE_OPTIONS", "NODE_PATH", "JAVA_TOOL_OPTIONS", "CLASSPATH",
        "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_EXEC_PATH", "GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL", "GIT_EXTERNAL_DIFF",
        "OPENSSL_CONF", "OPENSSL_MODULES", "CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH", "NCCL_NET_PLUGIN",
        "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "CREDENTIALS_DIRECTORY", "EDITOR", "PAGER", "SSH_ASKPASS",
    ],
)  # fmt: skip
def test_a_vault_under_a_name_that_starts_or_loads_something_is_refused(name: str) -> None:
    assert refused_names({name: "x"}) == [name]
    inherited = {"PATH": "/usr/bin", "HOME": "/home/u", "SHELL": "/bin/sh", "LD_LIBRARY_PATH": "/opt/cuda"}
    plain = process_environment(None, {}, {}, inherited=inherited)
    assert process_environment(None, {}, {name: "x"}, inherited=inherited) == plain


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "GIT_TOKEN", "GITHUB_TOKEN", "OPENSSL_PASSWORD", "NODE_TOKEN",
        "DATABASE_URL",
        "RUNQY_API_KEY", "AGENT_GIT_TOKEN", "AWS_SECRET_ACCESS_KEY", "REDIS_URL", "LISTEN_TOKEN",
    ],
)  # fmt: skip
def test_a_vault_that_only_its_author_reads_is_set(name: str) -> None:
    inherited = {"RUNQY_API_KEY": "agent's own", "AGENT_GIT_TOKEN": "agent's own"}
    assert refused_names({name: "author's"}) == []
    made = process_environment(None, {}, {name: "author's"}, inherited=inherited)
    assert made[name] == "author's"
    assert "agent's own" not in made.values()


def test_a_refused_vault_runs_no_code_in_a_real_interpreter_and_shell(tmp_path: Path) -> None:
    module, mark = tmp_path / "sitecustomize.py", tmp_path / "ran"
    module.write_text(f"open({str(mark)!r}, 'w')", encoding="utf-8")
    script = tmp_path / "script.sh"
    script.write_text(f"touch '{mark}'", encoding="utf-8")
    hostile = {"PYTHONPATH": str(tmp_path), "ENV": str(script), "BASH_ENV": str(script), "PATH": str(tmp_path)}
    without_check = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", ""], env=without_check, check=True)
    assert mark.exists(), "the trap works"
    mark.unlink()
    made = process_environment(None, {}, hostile, inherited={"PATH": os.environ["PATH"]})
    for command in ([sys.executable, "-c", ""], ["bash", "-c", "true"], ["sh", "-c", "true"]):
        subprocess.run(command, env=made, check=True)
    assert not mark.exists()
