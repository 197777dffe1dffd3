"""uv.lock and Poetry projects, with the real tools, which come from the package index; the packages are our own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deployment_kit import Bench, Repo, deploy, make_wheel, version_in
from git_http_server import git_server
from package_index import package_index
from runqy_agent.config.settings import DeploymentSettings, GitSettings
from runqy_agent.deployment import Deployer, Source
from runqy_agent.deployment.dependencies import Dependencies
from runqy_agent.deployment.environment import plan_environment
from runqy_agent.deployment.interpreter import find_python
from runqy_agent.deployment.tools import Tools
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runqy_agent.deployment import Release

# Builds a wheel of one module without any other package, for sources that must be built.
BACKEND = """\
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name, info = "gitpkg-1.0-py3-none-any.whl", "gitpkg-1.0.dist-info"
    files = {
        "gitpkg.py": "VERSION = 'from git'\\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: gitpkg\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(f"{directory}/{name}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"]))
    return name
"""
GITPKG = """\
[project]
name = "gitpkg"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory of tools for all tests: they are the slow part."""
    directory = tmp_path_factory.mktemp("tools")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10"]
    command = [*download, "--dest", str(directory / "reachable"), "poetry-core"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no package index with Poetry and uv can be reached")
    shutil.rmtree(directory / "reachable")
    return directory


def tool(tools: Path, name: str) -> Path:
    """The program of a tool, obtained as a deployment obtains it."""

    async def obtain() -> Path:
        interpreter = await find_python(sys.executable)
        plan = plan_environment(DeploymentSettings(), interpreter, Dependencies("none", tools), "")
        return await Tools(tools).obtain(name, plan)

    return asyncio.run(obtain()) / "bin" / name


class LockBench(Bench):
    """A bench whose packages come from an index, as locks want it."""

    def __init__(self, path: Path, tools: Path, index: str) -> None:
        super().__init__(path)
        self.tools = tools
        self.index = index
        (self.wheels / "tinypkg-2.0-py3-none-any.whl").unlink()
        self.home.mkdir()
        (self.home / "tools").symlink_to(tools)

    def bring(self, *, offline: bool = False) -> Release:
        settings = DeploymentSettings(
            dir=str(self.home), python=sys.executable, use_system_site_packages=False, offline=offline
        )
        return deploy(Deployer(settings, GitSettings()), Source(self.repo.url, "main"))

    def uv(self, *arguments: str) -> None:
        self._run(str(tool(self.tools, "uv")), "--no-cache", *arguments)

    def poetry(self, *arguments: str) -> None:
        self._run(str(tool(self.tools, "poetry")), "--no-interaction", *arguments)

    def _run(self, *command: str) -> None:
        env = {
            **os.environ,
            "UV_DEFAULT_INDEX": self.index,
            "POETRY_CACHE_DIR": str(self.path / "cache"),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.repo.path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr

    def project(self, *dependencies: str, more: str = "") -> None:
        quoted = ", ".join(f'"{entry}"' for entry in dependencies)
        head = f'[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = [{quoted}]\n'
        self.repo.put("pyproject.toml", head + more)

    def poetry_project(self, dependencies: str, python: str = "^3.10") -> None:
        self.repo.put(
            "pyproject.toml",
            "[tool.poetry]\npackage-mode = false\n"
            f'[[tool.poetry.source]]\nname = "own"\nurl = "{self.index}"\npriority = "primary"\n'
            f'[tool.poetry.group.dev.dependencies]\ndevpkg = "*"\n'
            f'[tool.poetry.dependencies]\npython = "{python}"\n{dependencies}\n',
        )


@pytest.fixture
def lock_bench(bench: Bench, tools: Path) -> Iterator[LockBench]:
    with package_index(bench.path / "locked" / "wheels") as server:
        made = LockBench(bench.path / "locked", tools, server.url)
        make_wheel(made.wheels, "devpkg")
        yield made


def packages_in(release: Release) -> set[str]:
    paths = release.environment.glob("lib/python*/site-packages/*.dist-info")
    return {path.name.partition("-")[0] for path in paths} - {"pip", "setuptools"}


def test_what_a_uv_lock_says_is_installed_and_a_new_lock_makes_a_new_environment(lock_bench: LockBench) -> None:
    bench = lock_bench
    dev = '[dependency-groups]\ndev = ["devpkg"]\n[project.optional-dependencies]\nextra = ["devpkg"]\n'
    bench.project("tinypkg>=1", more=dev)
    bench.uv("lock")
    make_wheel(bench.wheels, "tinypkg", "2.0")
    bench.repo.commit()
    first = bench.bring()
    assert version_in(first) == "1.0", "the index has 2.0, the lock has not"
    assert packages_in(first) == {"tinypkg"}
    assert [path.name for path in bench.tools.glob("uv-*")], "uv was not on PATH"
    assert not list(bench.tools.glob(".tmp-*"))
    bench.uv("lock", "--upgrade")
    bench.repo.commit()
    second = bench.bring()
    assert version_in(second) == "2.0"
    assert second.environment != first.environment


def test_an_override_in_a_lock_beats_what_a_package_itself_requires(lock_bench: LockBench) -> None:
    bench = lock_bench
    make_wheel(bench.wheels, "needy", requires="tinypkg==1.0")
    make_wheel(bench.wheels, "tinypkg", "2.0")
    bench.project("needy", more='[tool.uv]\noverride-dependencies = ["tinypkg==2.0"]\n')
    bench.uv("lock")
    bench.repo.commit()
    release = bench.bring()
    assert version_in(release) == "2.0"
    assert packages_in(release) == {"needy", "tinypkg"}


def test_a_package_that_is_not_the_one_locked_is_refused(lock_bench: LockBench) -> None:
    lock_bench.project("tinypkg>=1")
    lock_bench.uv("lock")
    lock_bench.repo.commit()
    wheel = make_wheel(lock_bench.wheels, "tinypkg", "1.0")
    wheel.write_bytes(wheel.read_bytes() + b"tampered")
    with pytest.raises(EnvironmentBuildError, match=r"(?i)hash"):
        lock_bench.bring()


def test_a_uv_lock_that_does_not_fit_is_an_error_that_names_package_and_commit(lock_bench: LockBench) -> None:
    lock_bench.project("tinypkg>=1")
    lock_bench.uv("lock")
    lock_bench.project("tinypkg>=2")
    commit = lock_bench.repo.commit()
    with pytest.raises(EnvironmentBuildError, match=r"does not fit .*\(tinypkg\)") as failed:
        lock_bench.bring()
    assert failed.value.commit == commit


def test_a_uv_lock_with_paths_and_git_needs_no_hashes(lock_bench: LockBench) -> None:
    git = Repo(lock_bench.path / "gitpkg")
    git.commit(pyproject_dot_toml=GITPKG, backend_dot_py=BACKEND)
    make_wheel(lock_bench.repo.path / "vendor", "ownpkg")
    sources = '[tool.uv.sources]\nownpkg = { path = "vendor/ownpkg-1.0-py3-none-any.whl" }\n'
    with git_server(git.path.parent, "", "") as server:
        server.expected = ""  # nobody need log in
        sources += f'gitpkg = {{ git = "http://127.0.0.1:{server.server_port}/gitpkg/.git" }}\n'
        lock_bench.project("tinypkg", "ownpkg", "gitpkg", more=sources)
        lock_bench.uv("lock")
        lock_bench.repo.commit()
        assert packages_in(lock_bench.bring()) == {"tinypkg", "ownpkg", "gitpkg"}


def test_what_a_poetry_lock_says_is_installed_and_nothing_but_the_main_group(lock_bench: LockBench) -> None:
    bench = lock_bench
    bench.poetry_project('tinypkg = ">=1"')
    bench.poetry("lock")
    make_wheel(bench.wheels, "tinypkg", "2.0")
    bench.repo.commit()
    release = bench.bring()
    assert version_in(release) == "1.0"
    assert packages_in(release) == {"tinypkg"}
    assert sorted(path.name for path in release.root.iterdir()) == ["poetry.lock", "pyproject.toml"]
    bench.poetry_project('tinypkg = ">=2"')
    bench.repo.commit()
    with pytest.raises(EnvironmentBuildError, match="Run `poetry lock`"):
        bench.bring()
    bench.poetry("lock")
    bench.repo.commit()
    assert version_in(bench.bring()) == "2.0"


def test_a_poetry_lock_with_a_path_needs_no_hashes(lock_bench: LockBench) -> None:
    make_wheel(lock_bench.repo.path / "vendor", "ownpkg")
    lock_bench.poetry_project('tinypkg = "^1.0"\nownpkg = { path = "vendor/ownpkg-1.0-py3-none-any.whl" }')
    lock_bench.poetry("lock")
    lock_bench.repo.commit()
    assert packages_in(lock_bench.bring()) == {"tinypkg", "ownpkg"}


def test_a_poetry_project_without_a_lock_gets_its_direct_dependencies(lock_bench: LockBench) -> None:
    make_wheel(lock_bench.wheels, "tinypkg", "2.0")
    make_wheel(lock_bench.wheels, "tinypkg", "1.7")
    lock_bench.poetry_project('tinypkg = "^1.2"\nnone = { version = "*", python = "<3.0" }')
    lock_bench.repo.commit()
    release = lock_bench.bring()
    assert version_in(release) == "1.7"
    assert packages_in(release) == {"tinypkg"}


@pytest.mark.parametrize("locked", [True, False])
def test_a_poetry_project_for_another_python_is_refused(lock_bench: LockBench, *, locked: bool) -> None:
    if locked:
        lock_bench.poetry_project('tinypkg = "^1.0"')
        lock_bench.poetry("lock")
    lock_bench.poetry_project('tinypkg = "^1.0"', python="~3.99")
    lock_bench.repo.commit()
    with pytest.raises(EnvironmentBuildError, match=r"requires Python >=3\.99,<3\.100, but the interpreter is"):
        lock_bench.bring()


def test_offline_a_tool_that_is_not_there_is_an_error_that_says_where_it_may_come_from(bench: Bench) -> None:
    bench.repo.put("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = []\n')
    bench.repo.put("uv.lock", "version = 1\n")
    commit = bench.repo.commit()
    with pytest.raises(EnvironmentBuildError, match=r"deployment\.find_links must have it") as failed:
        bench.deploy()
    assert failed.value.commit == commit
