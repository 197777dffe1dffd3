"""What the agent's children find in their environment: Git, build tools, the author's build steps, interpreters.

All are real programs that write down what they find. The agent's environment holds secrets of many kinds meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from deployment_kit import Bench, deploy
from git_http_server import git_server
from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
from runqy_agent.deployment import Deployer, Source
from runqy_agent.errors import EnvironmentBuildError
from runqy_agent.process.environment import process_environment

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {
    "FLEET_KEY": "hush-1", "RUNQY_API_KEY": "api-hush-2", "RUNQY_GIT_TOKEN": "git-hush-3", "GITHUB_TOKEN": "hush4",
    "AWS_SECRET_ACCESS_KEY": "hush-5", "DATABASE_URL": "postgres://u:hush-6@db/x", "REDISCLI_AUTH": "hush-7",
    "HF_TOKEN": "hush-8", "NVIDIA_API_KEY": "hush-9", "CUDA_TOKEN": "hush-10", "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": "Authorization: hush-11", "AGENT_GIT_TOKEN": "hush12",
    "CREDENTIALS_DIRECTORY": "/run/hush-13", "SOPS_AGE_KEY": "hush-14", "UV_PUBLISH_TOKEN": "hush-15",
    "POETRY_PYPI_TOKEN_PYPI": "hush-16", "TWINE_PASSWORD": "hush-17", "X": "hush-18", "runqy_api_key": "hush-19",
    "POETRY_HTTP_BASIC_X_PASSWORD": "hush-20", "NETRC_PASSWORD": "hush-21", "GOOGLE_APPLICATION_CREDENTIALS": "hush-22",
    "NOTIFY_SOCKET": "@hush-23", "INVOCATION_ID": "hush-24", "LISTEN_FDS": "hush-25", "WATCHDOG_USEC": "hush-26",
}  # fmt: skip
REDIRECTS = {
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_SRC", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN"),
    *("PIP_LOG", "PIP_REPORT", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_IGNORE_INSTALLED", "UV_PROJECT_ENVIRONMENT"),
    *("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_PYTHON_INSTALL_DIR", "UV_TOOL_DIR", "UV_BREAK_SYSTEM_PACKAGES"),
    *("UV_PROJECT", "UV_WORKING_DIRECTORY", "UV_CONFIG_FILE", "UV_ENV_FILE", "PYTHONUSERBASE", "PYTHONPATH"),
    *("PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "DESTDIR", "CMAKE_INSTALL_PREFIX", "LD_PRELOAD"),
    *("POETRY_VIRTUALENVS_PATH", "POETRY_HOME", "CARGO_INSTALL_ROOT", "SETUPTOOLS_USE_DISTUTILS", "BASH_ENV", "ENV"),
    *("GIT_ASKPASS", "SSH_ASKPASS", "GIT_SSH", "GIT_DIR", "GIT_WORK_TREE", "GIT_TEMPLATE_DIR", "GIT_TRACE"),
}
INDEX = {
    "PIP_EXTRA_INDEX_URL": "", "PIP_TRUSTED_HOST": "x", "PIP_TIMEOUT": "5", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1",
    "UV_DEFAULT_INDEX": "http://127.0.0.1:1/", "UV_HTTP_TIMEOUT": "5", "UV_INDEX_COMPANY_PASSWORD": "index-hush-27",
    "PIP_INDEX_URL": "http://ci:index-hush-28@127.0.0.1:1/simple", "UV_NO_CACHE": "1",
}  # fmt: skip
COMPILERS = {"CC": "cc", "CFLAGS": "-O1", "CUDA_HOME": "/opt/cuda", "MAX_JOBS": "1", "TORCH_CUDA_ARCH_LIST": "8.0"}
PLAIN = {"HTTPS_PROXY": "", "no_proxy": "*", "LC_TIME": "C", "TZ": "UTC"}
OFF = {
    *("GIT_TERMINAL_PROMPT", "GIT_ASKPASS", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "GCM_INTERACTIVE", "GIT_SSH_COMMAND"),
    *("HGPLAIN", "PIP_NO_INPUT", "PIP_KEYRING_PROVIDER", "UV_KEYRING_PROVIDER", "PYTHON_KEYRING_BACKEND"),
    *("POETRY_NO_INTERACTION",),
}
BY_TOOLS = {  # set by pip and uv themselves
    *("PIP_BUILD_TRACKER", "PYTHONNOUSERSITE", "_PYPROJECT_HOOKS_BUILD_BACKEND", "_PYPROJECT_HOOKS_BACKEND_PATH"),
    *("PEP517_BUILD_BACKEND", "PEP517_BACKEND_PATH", "VIRTUAL_ENV", "UV", "UV_INTERNAL__BUILD_DIR", "PYTHONPATH"),
    *("PYTHONIOENCODING",),
}
BACKEND = """
import base64, hashlib, json, os, sys, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return []

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open(SEEN, "w") as file:
        json.dump(dict(os.environ), file)
    FAIL
    name = "authors-1.0-py3-none-any.whl"
    files = {
        "authors.py": "",
        "authors-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: authors\\nVersion: 1.0\\n",
        "authors-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files["authors-1.0.dist-info/RECORD"] = "".join(f"{path},,\\n" for path in files)
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "authors"
version = "1.0"
"""


class Host:
    """The agent's environment.

    Attributes:
        programs: programs in this directory come first on PATH.
    """

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.programs = directory / "programs"
        self.programs.mkdir()
        self._directory = directory
        self._patch = patch

    def poison(self) -> None:
        """From now on it holds secrets of all kinds. The repository must be ready: Git itself would be misled."""
        for name in os.environ.keys() - {"PATH", "PYTEST_CURRENT_TEST"}:
            self._patch.delenv(name)
        self._patch.setenv("PATH", f"{self.programs}{os.pathsep}{os.environ['PATH']}")
        self._patch.setenv("HOME", str(self._directory))
        for name, value in (dict.fromkeys(REDIRECTS, "/nowhere") | SECRETS | INDEX | COMPILERS | PLAIN).items():
            self._patch.setenv(name, value)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def watched(program: str, directory: Path, seen: Path, real: str = "") -> Path:
    """A program that writes down its environment, for each time it is started, and goes on as the real one."""
    wrapper = directory / program
    dump = f"import json, os; open({str(seen)!r}, 'a').write(json.dumps(dict(os.environ)) + chr(10))"
    command = f'{sys.executable} -I -S -c "{dump}"\n'
    wrapper.write_text(f'#!/bin/sh\n{command}exec {real or shutil.which(program)} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    return wrapper


def environments(seen: Path) -> list[dict[str, str]]:
    found = [json.loads(line) for line in seen.read_text(encoding="utf-8").splitlines()]
    assert found
    for environment in found:
        for name in ("_", "PWD", "OLDPWD", "SHLVL", "LC_CTYPE"):  # the shell's, and Python's own
            environment.pop(name, None)
    return found


def has_no_secret(environment: dict[str, str], *but: str) -> None:
    told = {name: value for name, value in environment.items() if "hush" in value and name not in but}
    assert told == {}
    assert "/nowhere" not in environment.values()


def author(bench: Bench, seen: Path, fail: str = "") -> None:
    bench.repo.write(
        pkg__backend_dot_py=BACKEND.replace("SEEN", repr(str(seen))).replace("FAIL", fail or "pass"),
        pkg__pyproject_dot_toml=PYPROJECT,
    )
    bench.repo.commit(requirements_dot_txt="./pkg\n", main_dot_py="")


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_build_step_of_the_author_finds_the_index_and_compilers_and_nothing_secret(
    tool: str, bench: Bench, host: Host, tmp_path: Path, uv: Path
) -> None:
    if tool == "uv":
        (host.programs / "uv").symlink_to(uv)
    seen = tmp_path / "seen"
    author(bench, seen)
    host.poison()
    release = bench.deploy()
    (found,) = environments(seen)
    has_no_secret(found, "PIP_INDEX_URL", "UV_INDEX_COMPANY_PASSWORD")
    allowed = {"PATH", "HOME", "PIP_USER", "PIP_NO_INDEX", "UV_OFFLINE", "UV_PYTHON_DOWNLOADS", "UV_NO_PROGRESS"}
    allowed |= {"SETUPTOOLS_SCM_PRETEND_VERSION", "PBR_VERSION", "PDM_BUILD_SCM_VERSION"}
    allowed |= {"POETRY_DYNAMIC_VERSIONING_BYPASS", "UV_DYNAMIC_VERSIONING_BYPASS"}
    expected = allowed | INDEX.keys() | COMPILERS.keys() | PLAIN.keys() | OFF
    assert found.keys() - BY_TOOLS == expected
    assert {name: found[name] for name in INDEX} == INDEX
    assert found["GIT_ASKPASS"] == found["SSH_ASKPASS"] == ""
    assert list(release.environment.glob("lib/python*/site-packages/authors.py"))


def test_git_finds_its_own_settings_and_nothing_secret_but_the_token_of_the_repository(
    bench: Bench, host: Host, tmp_path: Path
) -> None:
    bench.repo.commit(main_dot_py="")
    shutil.copytree(bench.repo.path / ".git", tmp_path / "srv" / "repo.git")
    seen = tmp_path / "seen"
    watched("git", host.programs, seen)
    host.poison()
    with git_server(tmp_path / "srv", "x-access-token", "token-hush-29") as server:
        deploy(
            bench.deployer(),
            Source(f"http://127.0.0.1:{server.server_port}/repo.git", "main"),
            git_token=Secret("token-hush-29"),
        )
    ours = [found for found in environments(seen) if "GIT_PROJECT_ROOT" not in found]  # not the server's
    assert ours
    for found in ours:
        has_no_secret(found, "AGENT_GIT_TOKEN")
        assert found["AGENT_GIT_TOKEN"] == "token-hush-29"
        own = {"PATH", "HOME", "GIT_ALLOW_PROTOCOL", "LC_ALL", "LANGUAGE", "GIT_EXEC_PATH", "GIT_INDEX_FILE"}
        own |= {"AGENT_GIT_ORIGIN", "AGENT_GIT_LOGIN", "AGENT_GIT_USERNAME", "AGENT_GIT_TOKEN"}
        assert found.keys() - own == PLAIN.keys() | OFF


def test_an_interpreter_that_is_asked_for_its_version_finds_nothing_secret(
    bench: Bench, host: Host, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    python = watched("python3", host.programs, seen, sys.executable)
    bench.repo.commit(main_dot_py="")
    host.poison()
    settings = DeploymentSettings(dir=str(bench.home), python=str(python), offline=True)
    deploy(Deployer(settings, GitSettings()), Source(bench.repo.url, "main"))
    found = environments(seen)[0]
    has_no_secret(found)
    assert found.keys() == {"PATH", "HOME"} | PLAIN.keys()


def test_uv_that_reads_a_lock_finds_the_index_and_nothing_secret(
    bench: Bench, host: Host, tmp_path: Path, uv: Path
) -> None:
    seen = tmp_path / "seen"
    watched("uv", host.programs, seen, str(uv))
    lock = 'version = 1\nrequires-python = ">=3.8"\n[[package]]\nname = "x"\nversion = "1"\nsource = {virtual = "."}\n'
    project = '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.8"\ndependencies = []\n'
    bench.repo.commit(uv_dot_lock=lock, pyproject_dot_toml=project)
    host.poison()
    bench.deploy()
    for found in environments(seen):
        has_no_secret(found, "PIP_INDEX_URL", "UV_INDEX_COMPANY_PASSWORD")
        assert INDEX.keys() | OFF <= found.keys()


def test_a_password_of_the_index_is_in_no_error_and_does_not_reach_the_process(
    bench: Bench, host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    shown = "print(os.environ['PIP_INDEX_URL'][10:], dict(os.environ)); raise SystemExit('no luck')"
    author(bench, tmp_path / "seen", shown)
    host.poison()
    with pytest.raises(EnvironmentBuildError, match="no luck") as failed:
        bench.deploy()
    assert "hush" not in str(failed.value) + caplog.text
    assert "hush" not in str(process_environment(None, {}, {}))


def test_a_requirement_from_git_that_asks_for_a_password_fails_with_its_reason_and_asks_nobody(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 600\n", encoding="utf-8")
    program.chmod(0o755)
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, str(program))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(f"[core]\naskPass = {program}\n", encoding="utf-8")
    with git_server(tmp_path, "nobody", "nothing") as server:
        bench.repo.commit(requirements_dot_txt=f"private @ git+http://127.0.0.1:{server.server_port}/private.git\n")
        with pytest.raises(EnvironmentBuildError, match=r"could not read Username .*terminal prompts disabled"):
            bench.deploy()
    assert not asked.exists()
