"""What is fetched and checked out, with real repositories and no network; where the token goes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, Repo, deploy, files_below, spy_on, version_in
from git_http_server import git_server
from runqy_agent.config.settings import Secret
from runqy_agent.deployment import Source
from runqy_agent.errors import EnvironmentBuildError, GitError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_branch_is_deployed_with_its_packages_and_becomes_current(bench: Bench) -> None:
    commit = bench.repo.commit(main_dot_py="print('hi')\n", requirements_dot_txt=REQUIREMENTS)
    release = bench.deploy()
    assert release.commit == commit
    assert release.code_dir == release.root
    assert not release.stale
    assert files_below(release.root) == {"main.py", "requirements.txt"}
    assert version_in(release) == "1.0"
    current = bench.home / "queues" / QUEUE / "current"
    assert not current.readlink().is_absolute()
    assert current.resolve() == release.root.parent
    record = json.loads((release.root.parent / "release.json").read_text(encoding="utf-8"))
    assert (record["commit"], record["branch"], record["git_url"]) == (commit, "main", bench.repo.url)
    assert not list(bench.home.rglob(".git"))


def test_a_tag_a_commit_and_an_abbreviated_commit_are_found(bench: Bench) -> None:
    first = bench.repo.commit(main_dot_py="1")
    bench.repo.git("tag", "v1")
    second = bench.repo.commit(main_dot_py="2")
    bench.repo.git("-c", "user.name=x", "-c", "user.email=x@example.com", "tag", "-a", "-m", "two", "v2")
    third = bench.repo.commit(main_dot_py="3")
    for name, commit in (("v1", first), ("v2", second), (second, second), (first[:8], first), ("main", third)):
        release = bench.deploy(name)
        assert release.commit == commit, name
        assert release.branch == name


def test_a_branch_comes_before_a_tag_of_the_same_name(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    bench.repo.git("tag", "stable")
    commit = bench.repo.commit(main_dot_py="2")
    bench.repo.git("branch", "stable")
    assert bench.deploy("stable").commit == commit


def test_an_unknown_branch_is_an_error_that_names_those_that_come_near(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    bench.repo.git("branch", "feature/inference")
    with pytest.raises(GitError, match=r"no branch or tag 'feature/inferense'; it has feature/inference"):
        bench.deploy("feature/inferense")
    for commit in ("0" * 40, "abcdef0"):
        with pytest.raises(GitError, match="holds a commit"):
            bench.deploy(commit)


@pytest.mark.parametrize("allow_filter", [True, False])
def test_only_the_code_path_is_checked_out(tmp_path: Path, bench: Bench, *, allow_filter: bool) -> None:
    bench.repo = Repo(tmp_path / "filtered", allow_filter=allow_filter)
    bench.repo.put("models/weights.bin", "w" * 300_000)
    bench.repo.put("src/other/unwanted.py", "")
    bench.repo.put("src/beside.py", "")
    bench.repo.put("src/tasks/deep/er.py", "")
    bench.repo.commit(README_dot_md="", src__tasks__main_dot_py="print()\n")
    blob = bench.repo.git("rev-parse", "HEAD:models/weights.bin")
    release = bench.deploy(code_path="./src/tasks/")
    assert release.code_dir == release.root / "src" / "tasks"
    assert files_below(release.root) == {"README.md", "src/beside.py", "src/tasks/main.py", "src/tasks/deep/er.py"}
    (cache,) = (bench.home / "repositories").iterdir()
    env = {**os.environ, "GIT_ALLOW_PROTOCOL": ""}
    command = ["git", f"--git-dir={cache}", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]
    objects = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
    assert (blob in objects) is not allow_filter


def test_a_code_path_that_does_not_exist_is_an_error(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    for path in ("nowhere", "main.py"):
        with pytest.raises(GitError, match=f"'{path}' is no directory"):
            bench.deploy(code_path=path)
    assert bench.names(f"queues/{QUEUE}/releases") == []


def test_a_code_path_that_links_outside_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (bench.repo.path / "jobs").symlink_to("../../../../../../../../../../../../" + str(tmp_path / "outside"))
    bench.repo.commit(main_dot_py="1")
    with pytest.raises(GitError, match="leads outside"):
        bench.deploy(code_path="jobs")


def test_a_code_path_may_be_a_link_inside_the_repository(bench: Bench) -> None:
    (bench.repo.path / "jobs").symlink_to("lib/jobs-v2")
    bench.repo.put("lib/jobs-v2/main.py", "")
    bench.repo.commit(main_dot_py="1")
    assert (bench.deploy(code_path="jobs").code_dir / "main.py").is_file()


def test_a_requirements_file_that_links_outside_is_refused(bench: Bench) -> None:
    (bench.repo.path / "requirements.txt").symlink_to("/etc/hostname")
    bench.repo.commit(main_dot_py="1")
    with pytest.raises(EnvironmentBuildError, match="leads outside"):
        bench.deploy()


def test_a_file_that_the_requirements_include_is_fetched_though_it_is_outside_of_the_code_path(bench: Bench) -> None:
    bench.repo.put("shared/base.txt", REQUIREMENTS)
    bench.repo.put("jobs/requirements.txt", "-r ../shared/base.txt\n")
    bench.repo.put("other/unwanted.txt", "")
    bench.repo.commit(jobs__main_dot_py="1")
    release = bench.deploy(code_path="jobs")
    assert version_in(release) == "1.0"
    assert not (release.root / "other").exists()
    bench.repo.put("jobs/requirements.txt", "-r ../shared/none.txt\n")
    bench.repo.commit()
    with pytest.raises(EnvironmentBuildError, match=r"shared/none\.txt, which the repository does not have"):
        bench.deploy(code_path="jobs")


def test_a_spoiled_repository_cache_and_stale_lock_files_heal(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1")
    bench.deploy()
    (cache,) = (bench.home / "repositories").iterdir()
    for lock in ("shallow.lock", "config.lock"):
        (cache / lock).touch()
    bench.repo.commit(main_dot_py="2")
    bench.deploy()
    for pack in (cache / "objects" / "pack").glob("*.pack"):
        pack.chmod(0o644)
        pack.write_bytes(b"spoiled")
    commit = bench.repo.commit(main_dot_py="3")
    assert bench.deploy().commit == commit


def test_a_token_is_used_and_found_nowhere(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt="# nothing\n")
    bindir, calls = spy_on("git", tmp_path / "spy")
    monkeypatch.setenv("PATH", f"{bindir}{os.pathsep}{os.environ['PATH']}")
    token = "glpat-0123456789abcdefghij"
    with git_server(tmp_path, "x-access-token", token) as server:
        address = f"127.0.0.1:{server.server_port}/repo/.git"
        deployer = bench.deployer()
        release = deploy(deployer, Source(f"http://{address}", "main"), "a", git_token=Secret(token))
        assert (release.root / "main.py").is_file()
        deploy(deployer, Source(f"http://{token}@{address}", "main"), "b")
        with pytest.raises(GitError) as refused:
            deploy(deployer, Source(f"http://ci:wrong-password@{address}", "main"), "c")
    assert "wrong-password" not in str(refused.value)
    assert "fetch" in calls.read_text(encoding="utf-8")
    assert token not in calls.read_text(encoding="utf-8")
    for path in bench.home.rglob("*"):
        if path.is_file() and "environments" not in path.parts:
            assert token.encode() not in path.read_bytes(), path


def test_a_redirect_to_another_host_gets_no_token(bench: Bench, tmp_path: Path) -> None:
    bench.repo.commit(main_dot_py="1")
    with git_server(tmp_path, "x-access-token", "t0ken") as server:
        server.redirect_to = f"http://localhost:{server.server_port}"
        url = f"http://127.0.0.1:{server.server_port}/repo/.git"
        with pytest.raises(GitError, match="asking"):
            deploy(bench.deployer(), Source(url, "main"), git_token=Secret("t0ken"))
        assert {host for host, _ in server.seen} == {"127.0.0.1", "localhost"}
        assert not [authorization for host, authorization in server.seen if host == "localhost" and authorization]
