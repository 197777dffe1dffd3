"""What builds and checkouts of real repositories need: versions, variables, submodules, large files, a sign of life."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deployment_kit import REQUIREMENTS, Bench, Repo, deploy, version_in
from git_http_server import git_server
from repository_kit import package, project
from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
from runqy_agent.deployment import Deployer, Source
from runqy_agent.deployment.commands import Command, run
from runqy_agent.deployment.submodules import absolute_url
from runqy_agent.errors import DeploymentError, EnvironmentBuildError, GitError

if TYPE_CHECKING:
    from pathlib import Path

    from runqy_agent.deployment import Release

pytestmark = pytest.mark.usefixtures("with_uv")


@pytest.fixture
def with_uv(bench: Bench, uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


def deployer(bench: Bench, **more: object) -> Deployer:
    settings = DeploymentSettings(
        dir=str(bench.home),
        python=sys.executable,
        offline=True,
        find_links=[str(bench.wheels)],
        use_system_site_packages=False,
        **more,  # type: ignore[arg-type]
    )
    return Deployer(settings, GitSettings())


def put(repo: Repo, files: dict[str, str]) -> str:
    for name, content in files.items():
        repo.put(name, content)
    return repo.commit()


def says(release: Release, code: str) -> str:
    done = subprocess.run([str(release.python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_build_that_asks_git_for_its_version_is_told_the_commit(bench: Bench) -> None:
    files = package("", "inner")
    files["pyproject.toml"] = files["pyproject.toml"].replace('version = "1.0"', 'dynamic = ["version"]')
    from_file, from_variable = (
        'pathlib.Path("VERSION").read_text().strip()',
        'os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]',
    )
    assert from_file in files["backend.py"]
    files["backend.py"] = files["backend.py"].replace(from_file, from_variable)
    commit = put(bench.repo, {"requirements.txt": ".\n", **files})
    release = deploy(deployer(bench), Source(bench.repo.url, "main"))
    version = says(release, "import importlib.metadata as m; print(m.version('inner'))")
    assert version == f"0.0+g{commit[:12]}"


SETUPTOOLS = '[build-system]\nrequires = ["setuptools>=64"{more}]\nbuild-backend = "setuptools.build_meta"\n'
INNER = '[project]\nname = "inner"\ndynamic = ["version"]\n'
MODULES = '[tool.setuptools]\npy-modules = ["inner"]\n'
VERSIONEER = """[tool.versioneer]
VCS = "git"
style = "pep440"
versionfile_source = "_version.py"
versionfile_build = "_version.py"
tag_prefix = "v"
parentdir_prefix = ""
"""
SETUP = """import versioneer
from setuptools import setup
setup(version=versioneer.get_version(), cmdclass=versioneer.get_cmdclass())
"""
HATCH = """[build-system]
requires = ["hatchling", "hatch-vcs"]
build-backend = "hatchling.build"
[tool.hatch.version]
source = "vcs"
[tool.hatch.build.targets.wheel]
include = ["inner.py"]
"""


@pytest.fixture(scope="module")
def pypi(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tools = ("setuptools_scm", "hatch-vcs", "hatchling", "versioneer")
    command = [str(uv), "pip", "install", "--dry-run", "--target", str(tmp_path_factory.mktemp("none")), *tools]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no package index with the tools that ask Git for versions can be reached")


@pytest.mark.usefixtures("pypi")
@pytest.mark.parametrize(
    ("files", "version"),
    [
        (
            {
                "pyproject.toml": SETUPTOOLS.format(more=', "setuptools_scm>=8"')
                + INNER
                + MODULES
                + "[tool.setuptools_scm]\n"
            },
            "0.0+g{}",
        ),
        ({"pyproject.toml": HATCH + INNER}, "0.0+g{}"),
        # It asks Git and nothing else, and says so where there is none.
        (
            {
                "pyproject.toml": SETUPTOOLS.format(more=', "versioneer[toml]==0.29"') + INNER + MODULES + VERSIONEER,
                "setup.py": SETUP,
            },
            "0+unknown",
        ),
    ],
    ids=["setuptools_scm", "hatch-vcs", "versioneer"],
)
def test_the_tools_that_ask_git_for_a_version_build(bench: Bench, files: dict[str, str], version: str) -> None:
    commit = put(bench.repo, {**files, "inner.py": "", "requirements.txt": ".\n"})
    settings = DeploymentSettings(dir=str(bench.home), python=sys.executable, use_system_site_packages=False)
    release = deploy(Deployer(settings, GitSettings()), Source(bench.repo.url, "main"))
    found = says(release, "import importlib.metadata as m; print(m.version('inner'))")
    assert found == version.format(commit[:12])


def test_variables_in_requirements_are_those_that_the_operator_names_and_belong_to_the_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANTED", "2.0")  # in the agent's environment alone it means nothing
    put(bench.repo, {"requirements.txt": "tinypkg==${WANTED}\n"})
    source = Source(bench.repo.url, "main")
    with pytest.raises(EnvironmentBuildError, match="WANTED"):
        deploy(deployer(bench), source)

    def with_version(version: str) -> Release:
        return asyncio.run(deployer(bench).prepare("inference", source, variables={"WANTED": version}))

    first, second = with_version("1.0"), with_version("2.0")
    assert (version_in(first), version_in(second)) == ("1.0", "2.0")
    assert with_version("1.0").environment == first.environment


def test_queues_in_different_places_with_the_same_requirements_share_an_environment(bench: Bench) -> None:
    put(bench.repo, {"a/requirements.txt": REQUIREMENTS, "deep/b/requirements.txt": REQUIREMENTS})
    first = deploy(deployer(bench), Source(bench.repo.url, "main", "a"), "a")
    second = deploy(deployer(bench), Source(bench.repo.url, "main", "deep/b"), "b")
    assert first.environment == second.environment


def test_local_code_is_shared_by_no_two_releases(bench: Bench) -> None:
    files = package("lib/", "inner")
    put(bench.repo, {"a/requirements.txt": "-e ../lib\n", "b/requirements.txt": "-e ../lib\n", **files})
    first = deploy(deployer(bench), Source(bench.repo.url, "main", "a"))
    second = deploy(deployer(bench), Source(bench.repo.url, "main", "b"))
    for release in (first, second):
        assert says(release, "import inner; print(inner.__file__)") == str(release.root / "lib" / "inner.py")


def test_files_that_are_not_read_are_named_with_what_to_do(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    put(
        bench.repo,
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["libs/*"]\n',
            "setup.py": "",
            "Pipfile": "",
            "environment.yml": "",
            "requirements/prod.txt": "",
            "builder/requirements.txt": "",
        },
    )
    deploy(deployer(bench), Source(bench.repo.url, "main"))
    for name in (
        "workspace",
        "setup.py",
        "Pipfile",
        "environment.yml",
        "requirements/prod.txt",
        "builder/requirements",
    ):
        assert name in caplog.text


def test_a_group_that_is_not_there_is_refused_by_name(bench: Bench) -> None:
    put(bench.repo, {"pyproject.toml": project("x", more='[dependency-groups]\njobs = ["tinypkg"]\n')})
    with pytest.raises(EnvironmentBuildError, match=r"no dependency group nonsense \(it has jobs\)"):
        deploy(deployer(bench, groups=["nonsense"]), Source(bench.repo.url, "main"))


def test_pointers_of_git_lfs_are_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    off = ("process=", "smudge=", "required=false")  # where git-lfs is installed, the system's Git may know it
    options = tuple(word for each in off for word in ("-c", f"filter.lfs.{each}"))
    monkeypatch.setattr("runqy_agent.deployment.git.lfs_options", lambda: options)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    put(bench.repo, {"jobs/model.bin": pointer, ".gitattributes": "*.bin filter=lfs -text\n", "jobs/main.py": ""})
    deploy(deployer(bench), Source(bench.repo.url, "main", "jobs"))
    assert "git-lfs is not installed or failed: jobs/model.bin" in caplog.text


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_files_of_git_lfs_are_fetched(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.repo.git("lfs", "install", "--local")
    content = "weights\n" * 1000
    put(bench.repo, {".gitattributes": "*.bin filter=lfs -text\n", "jobs/model.bin": content, "jobs/main.py": ""})
    assert "git-lfs.github.com" in bench.repo.git("show", "HEAD:jobs/model.bin")
    release = deploy(deployer(bench), Source(bench.repo.url, "main", "jobs"))
    assert (release.code_dir / "model.bin").read_text(encoding="utf-8") == content
    assert "Git LFS" not in caplog.text


def with_submodule(bench: Bench) -> str:
    inner = Repo(bench.path / "inner")
    commit = put(inner, {"lib.py": "VALUE = 1\n", **package("", "inner"), "requirements.txt": ""})
    put(
        bench.repo,
        {
            ".gitmodules": '[submodule "x"]\n\tpath = jobs/inner\n\turl = ../inner\n',
            "jobs/requirements.txt": "./inner\n",
        },
    )
    bench.repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},jobs/inner")
    bench.repo.git("commit", "--quiet", "-m", "A submodule")
    return inner.path.name


def test_submodules_are_checked_out_where_the_operator_wants_them(bench: Bench) -> None:
    with_submodule(bench)
    source = Source(bench.repo.url, "main", "jobs")
    with pytest.raises(EnvironmentBuildError):
        deploy(deployer(bench), source)
    release = deploy(deployer(bench, submodules=True), source)
    assert (release.code_dir / "inner" / "lib.py").is_file()
    assert says(release, "import inner; print(inner.VERSION)") == "1.0"


def test_a_submodule_is_bounded_as_its_repository_is_and_another_host_gets_no_token(bench: Bench) -> None:
    with_submodule(bench)
    bounded = deployer(bench, submodules=True, allowed_repositories=[str(bench.repo.path)])
    with pytest.raises(DeploymentError, match="allowed_repositories"):
        deploy(bounded, Source(bench.repo.url, "main", "jobs"))
    with git_server(bench.path, "x-access-token", "t0ken") as server:
        bench.repo.put(
            ".gitmodules",
            f'[submodule "x"]\n\tpath = jobs/inner\n\turl = http://localhost:{server.server_port}/inner/.git\n',
        )
        bench.repo.git("add", ".gitmodules")
        bench.repo.git("commit", "--quiet", "-m", "On another host")
        url = f"http://127.0.0.1:{server.server_port}/repo/.git"
        with pytest.raises(GitError):
            deploy(deployer(bench, submodules=True), Source(url, "main", "jobs"), git_token=Secret("t0ken"))
        assert not [authorization for host, authorization in server.seen if host == "localhost" and authorization]
        bench.repo.put(".gitmodules", f'[submodule "x"]\n\tpath = jobs/inner\n\turl = file://{bench.path}/inner\n')
        bench.repo.git("add", ".gitmodules")
        bench.repo.git("commit", "--quiet", "-m", "On this host")
        with pytest.raises(GitError, match="is on this host"):
            deploy(deployer(bench, submodules=True), Source(url, "main", "jobs"), git_token=Secret("t0ken"))


@pytest.mark.parametrize(
    ("url", "parent", "absolute"),
    [
        ("https://example.com/x", "https://example.com/a/b.git", "https://example.com/x"),
        ("../x.git", "https://example.com/a/b.git", "https://example.com/a/x.git"),
        ("../../c/x.git", "https://example.com/a/b.git/", "https://example.com/c/x.git"),
        ("./x", "https://example.com/a/b", "https://example.com/a/b/x"),
        ("../x.git", "git@example.com:a/b.git", "git@example.com:a/x.git"),
        ("../x.git", "git@example.com:b.git", "git@example.com:x.git"),
    ],
)
def test_a_relative_url_of_a_submodule_is_that_of_its_neighbour(url: str, parent: str, absolute: str) -> None:
    assert absolute_url(url, parent) == absolute


def test_a_long_command_says_what_it_is_doing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script = "import sys, time; print('Collecting torch s3cret', flush=True); sys.stdin.read(); time.sleep(0.6)"
    command = Command(
        [sys.executable, "-c", script],
        purpose="installing",
        env=dict(os.environ),
        error=EnvironmentBuildError,
        seconds=60,
        secrets=("s3cret",),
        report_seconds=0.1,
    )
    asyncio.run(run(command))
    assert "installing: 0 s so far" in caplog.text
    assert "Collecting torch ***" in caplog.text


def test_a_deployment_says_what_it_is_doing_while_an_environment_is_built(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runqy_agent.deployment.environment._REPORT_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    files = package("", "inner")
    files["backend.py"] += "import time\ntime.sleep(0.5)\n"
    put(bench.repo, {"requirements.txt": ".\n", **files})
    deploy(deployer(bench), Source(bench.repo.url, "main"))
    said = [message for message in caplog.messages if message.startswith("installing the dependencies (")]
    assert len(said) >= 2
    assert all("s so far" in message for message in said)
