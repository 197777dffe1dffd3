"""Virtual environments, real ones: built when needed, and only then. No network but for the SDK's test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, Repo, deploy, make_wheel, spy_on, version_in
from runqy_agent.config.settings import DeploymentSettings, GitSettings
from runqy_agent.deployment import Deployer, Source
from runqy_agent.errors import EnvironmentBuildError


def test_a_deploy_with_nothing_new_starts_no_pip_and_changes_no_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    bindir, calls = spy_on("git", tmp_path / "spy")
    monkeypatch.setenv("PATH", f"{bindir}{os.pathsep}{os.environ['PATH']}")
    before = {path: path.lstat().st_mtime_ns for path in bench.home.rglob("*")}
    assert bench.deploy() == first
    assert {path: path.lstat().st_mtime_ns for path in bench.home.rglob("*")} == before
    assert [line.count("ls-remote") for line in calls.read_text(encoding="utf-8").splitlines()] == [1]


def test_new_code_with_the_same_requirements_keeps_the_environment(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    bench.repo.commit(main_dot_py="2")
    second = bench.deploy()
    assert second.root != first.root
    assert second.environment == first.environment
    assert bench.deploy(queue="another").environment == first.environment


def test_changed_requirements_make_a_new_environment(bench: Bench) -> None:
    bench.repo.put("pins/all.txt", "tinypkg==1.0\n")
    bench.repo.commit(requirements_dot_txt="-r pins/all.txt\n")
    first = bench.deploy()
    bench.repo.put("pins/all.txt", "tinypkg==2.0\n")
    bench.repo.commit()
    second = bench.deploy()
    assert second.environment != first.environment
    assert (version_in(first), version_in(second)) == ("1.0", "2.0")


def test_static_dependencies_of_a_pyproject_are_installed_without_the_project(bench: Bench) -> None:
    bench.repo.put("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = ["tinypkg==2.0"]\n')
    bench.repo.commit(jobs__main_dot_py="1")
    assert version_in(bench.deploy(code_path="jobs")) == "2.0"


def test_local_code_in_the_requirements_follows_the_commit(bench: Bench) -> None:
    make_wheel(bench.repo.path, "tinypkg", "1.0")
    bench.repo.commit(requirements_dot_txt="./tinypkg-1.0-py3-none-any.whl\n")
    first = bench.deploy()
    bench.repo.commit(main_dot_py="2")
    assert bench.deploy().environment != first.environment


def test_a_package_that_cannot_be_installed_is_an_error_with_pips_last_words(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    good = bench.deploy()
    bench.repo.commit(requirements_dot_txt="nosuchpackage==9\n")
    with pytest.raises(EnvironmentBuildError, match=r"No matching distribution found for nosuchpackage==9"):
        bench.deploy()
    assert (bench.home / "queues" / QUEUE / "current").resolve() == good.root.parent
    bench.repo.git("revert", "--no-edit", "HEAD")
    assert bench.deploy().environment == good.environment


def test_an_environment_that_is_not_complete_is_built_again_beside_what_still_uses_it(bench: Bench) -> None:
    bench.repo.commit(requirements_dot_txt=REQUIREMENTS)
    first = bench.deploy()
    (first.environment / ".complete").unlink()
    (first.environment / "half").touch()
    for leftover in ("environments/.tmp-1", f"queues/{QUEUE}/releases/.tmp-2/code"):
        (bench.home / leftover).mkdir(parents=True)
    second = bench.deploy()
    assert second.environment != first.environment
    assert not (second.environment / "half").exists()
    assert version_in(second) == "1.0"
    assert not list(bench.home.rglob(".tmp-*"))


def test_system_site_packages_and_the_interpreter_belong_to_the_key(bench: Bench) -> None:
    bench.repo.commit(requirements_dot_txt="# nothing\n")
    source = Source(bench.repo.url, "main")
    closed = deploy(bench.deployer(), source, "a")
    opened = deploy(bench.deployer(system_site_packages=True), source, "b")
    assert closed.environment != opened.environment
    for release, seen in ((closed, "false"), (opened, "true")):
        config = (release.environment / "pyvenv.cfg").read_text(encoding="utf-8").lower()
        assert f"include-system-site-packages = {seen}" in config


def test_without_python_in_the_settings_the_agents_own_environment_is_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("these tests do not run in a virtual environment")
    bench.repo.commit(main_dot_py="1")
    base = Path(sys.base_prefix) / "bin"
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.prefix) / "bin"), str(base), os.environ["PATH"]]))
    release = deploy(bench.deployer(python=""), Source(bench.repo.url, "main"))
    config = (release.environment / "pyvenv.cfg").read_text(encoding="utf-8")
    assert f"home = {base}" in config


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("exit 3", "exit code 3"),
        ("echo hello", "does not answer"),
        (
            """echo '{"executable": "/x", "version": [3, 7, 16], "implementation": "x", "ensurepip": true}'""",
            "is Python 3.7.16",
        ),
    ],
)
def test_an_unfit_interpreter_is_an_error(bench: Bench, tmp_path: Path, answer: str, message: str) -> None:
    bench.repo.commit(main_dot_py="1")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(EnvironmentBuildError, match=message):
        deploy(bench.deployer(python=str(python)), Source(bench.repo.url, "main"))
    with pytest.raises(EnvironmentBuildError, match=r"deployment\.python"):
        deploy(bench.deployer(python="python-that-is-not"), Source(bench.repo.url, "main"))


@pytest.mark.parametrize("system_site_packages", [True, False])
def test_uv_is_used_where_it_is_on_path(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: Path, *, system_site_packages: bool
) -> None:
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    bindir, calls = spy_on("uv", tmp_path / "spy")
    monkeypatch.setenv("PATH", f"{bindir}{os.pathsep}{os.environ['PATH']}")
    bench.repo.commit(requirements_dot_txt=REQUIREMENTS)
    deployer = bench.deployer(system_site_packages=system_site_packages)
    release = deploy(deployer, Source(bench.repo.url, "main"))
    assert version_in(release) == "1.0"
    used = calls.read_text(encoding="utf-8")
    assert ("pip install" in used) is not system_site_packages


def test_the_sdk_from_the_package_index_is_installed_with_system_site_packages(tmp_path: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10"]
    if subprocess.run(
        [*download, "--dest", str(tmp_path), "runqy-python"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no package index with runqy-python can be reached")
    repo = Repo(tmp_path / "repo")
    repo.commit(requirements_dot_txt="runqy-python\n")
    settings = DeploymentSettings(dir=str(tmp_path / "deployment"), python=sys.executable)
    release = deploy(Deployer(settings, GitSettings()), Source(repo.url, "main"))
    subprocess.run([str(release.python), "-c", "from runqy_python import run, task"], check=True)
