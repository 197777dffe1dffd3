"""What the author's own process, or a crash, has damaged is built afresh once; what others use stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deployment_kit import QUEUE, REQUIREMENTS, Bench, files_below, version_in
from runqy_agent.deployment import Source
from runqy_agent.deployment.files import locked, remove_tree
from stage import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.demo.repositories import GitRepository
    from runqy_agent.deployment import Release
    from stage import Agent, Stage

NOBODY = 65534
AUTHOR = """
import json, os, sys
import helper
import tinypkg
if os.path.exists({trouble!r}):
    sys.exit("the database is away")
print(json.dumps({{"status": "ready"}}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    result = {{"commit": VERSION, "package": tinypkg.__file__, "code": os.getcwd()}}
    print(json.dumps({{"task_id": task["task_id"], "result": result}}), flush=True)
"""


class Scene:
    """One queue whose code needs a module of its own and one of its environment."""

    def __init__(self, stage: Stage, bench: Bench) -> None:
        self.stage = stage
        self.home = bench.home
        self.trouble = stage.directory / "trouble"
        self.bench = bench
        self.repository: GitRepository = stage.queue("inference", self.files(1))

    def files(self, version: int) -> dict[str, str]:
        main = AUTHOR.format(trouble=str(self.trouble)).replace("VERSION", str(version))
        return {"main.py": main, "helper.py": "", "requirements.txt": REQUIREMENTS}

    def agent(self) -> Agent:
        config = self.stage.directory / "config.yml"
        config.write_text(
            f"deployment:\n  offline: true\n  find_links: ['{self.bench.wheels}']\n  use_system_site_packages: false\n"
        )
        return self.stage.agent(deployment_dir=self.home, config_file=config)

    def serve(self) -> dict[str, Any]:
        """Start a worker, let it run a task, and stop it. Returns the result, and how often it built."""
        agent = self.agent().wait_running()
        task = self.stage.client.enqueue("inference.default", b"0")
        self.stage.until_state("inference.default", task, "completed")
        info = self.stage.client.info("inference.default", task)
        assert info is not None
        assert agent.terminate() == 0
        result: dict[str, Any] = json.loads(info.result or b"{}")
        return result | {
            "built": agent.log().count("building the environment"),
            "fetched": agent.log().count("fetching main of"),
            "afresh": agent.log().count("so it is built afresh"),
        }

    def code(self) -> Path:
        return (self.home / "queues" / "inference" / "current").resolve() / "code"

    def environment(self) -> Path:
        (found,) = (self.home / "environments").iterdir()
        return found


@pytest.fixture
def scene(stage: Stage, bench: Bench) -> Scene:
    return Scene(stage, bench)


def package(scene: Scene) -> Path:
    return next(scene.environment().glob("lib/python*/site-packages/tinypkg.py"))


STARTED: dict[str, Callable[[Scene], object]] = {
    "a file of the code": lambda scene: (scene.code() / "helper.py").unlink(),
    "a file of the environment": lambda scene: package(scene).unlink(),
    "both": lambda scene: take_away(package(scene), scene.code() / "helper.py"),
}
SEEN: dict[str, Callable[[Path, Path, Path], object]] = {
    "the interpreter": lambda _, __, environment: (environment / "bin" / "python").unlink(),
    "the link of the interpreter": lambda _, __, environment: dangle(environment / "bin" / "python"),
    "the mark of the environment": lambda _, __, environment: (environment / ".complete").unlink(),
    "the environment": lambda _, __, environment: shutil.rmtree(environment),
    "the dependencies": lambda _, code, __: (code / "requirements.txt").unlink(),
    "the name of a dependency": lambda _, code, __: (code / "requirements.txt").write_text("-r nowhere.txt"),
    "the record": lambda _, code, __: os.truncate(code.parent / "release.json", 10),
    "no record": lambda _, code, __: (code.parent / "release.json").unlink(),
    "the code": lambda _, code, __: shutil.rmtree(code),
    "the link": lambda home, _, __: dangle(home / "queues" / QUEUE / "current"),
    "no link": lambda home, _, __: (home / "queues" / QUEUE / "current").unlink(),
    "a directory as the link": lambda home, _, __: as_directory(home / "queues" / QUEUE / "current"),
    "the copy of the repository": lambda home, code, _: take_away(next(home.glob("repositories/*/objects")), code),
}


def take_away(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def dangle(link: Path) -> None:
    link.unlink()
    link.symlink_to("nowhere")


def as_directory(link: Path) -> None:
    link.unlink()
    link.mkdir()


@pytest.mark.parametrize("damage", STARTED)
def test_what_was_damaged_is_there_again_after_one_start_and_built_no_more(damage: str, scene: Scene) -> None:
    scene.serve()
    STARTED[damage](scene)
    mended = scene.serve()
    assert (mended["commit"], mended["built"], mended["fetched"], mended["afresh"]) == (1, 1, 1, 1)
    again = scene.serve()
    assert again == mended | {"built": 0, "fetched": 0, "afresh": 0}
    assert len(list((scene.home / "environments").iterdir())) == 1
    assert len(list((scene.home / "queues" / "inference" / "releases").iterdir())) == 1


@pytest.mark.parametrize("damage", SEEN)
def test_what_is_seen_to_be_damaged_is_mended_before_the_start(damage: str, bench: Bench) -> None:
    commit = bench.repo.commit(main_dot_py="1", helper_dot_py="", requirements_dot_txt=REQUIREMENTS)
    release = bench.deploy()
    assert release.hold is not None
    release.hold.close()
    SEEN[damage](bench.home, release.root, release.environment)
    for _ in range(2):
        mended = bench.deploy()
        assert mended.commit == commit
        assert version_in(mended) == "1.0"
        assert files_below(mended.root) == {"main.py", "helper.py", "requirements.txt"}
        assert (bench.home / "queues" / QUEUE / "current").resolve() == mended.root.parent
        assert mended.hold is not None
        mended.hold.close()
    bench.repo.commit(main_dot_py="2")
    bench.deploy(keep=1)
    bench.repo.commit(main_dot_py="3")
    bench.deploy(keep=1)
    assert len(bench.names("environments")) == 1
    assert len(bench.names(f"queues/{QUEUE}/releases")) == 2


def test_a_release_that_is_not_damaged_is_built_afresh_once_and_not_again_while_it_does_not_become_ready(
    scene: Scene,
) -> None:
    first = scene.serve()
    scene.trouble.touch()
    built = []
    for _ in range(3):
        agent = scene.agent()
        assert agent.wait() == 5
        assert "the database is away" in agent.log()
        built.append(agent.log().count("so it is built afresh"))
    assert built == [1, 0, 0]
    scene.trouble.unlink()
    mended = scene.serve()
    assert mended["package"] != first["package"]
    assert mended == scene.serve()


def test_a_damaged_release_that_cannot_be_built_afresh_is_tried_again_at_the_next_start(scene: Scene) -> None:
    scene.serve()
    package(scene).unlink()
    scene.bench.wheels.rename(scene.bench.wheels.with_name("away"))
    scene.bench.wheels.mkdir()
    for _ in range(2):
        agent = scene.agent()
        assert agent.wait() == 5
        assert "No module named 'tinypkg'" in agent.log()
        assert "and it cannot be built afresh: installing the dependencies" in agent.log()
    shutil.rmtree(scene.bench.wheels)
    scene.bench.wheels.with_name("away").rename(scene.bench.wheels)
    assert scene.serve()["afresh"] == 1


def test_a_release_that_stands_in_is_built_afresh_too(scene: Scene) -> None:
    scene.serve()
    scene.repository.commit(scene.files(2) | {"main.py": "import sys; sys.exit('broken')"})
    agent = scene.agent().wait_running()
    agent.terminate()
    (scene.code() / "helper.py").unlink()
    assert scene.serve() | {"package": ""} == {
        "commit": 1,
        "package": "",
        "code": str(scene.code()),
        "built": 1,
        "fetched": 1,
        "afresh": 1,
    }


def test_a_damaged_release_in_use_by_another_agent_is_not_taken_away(scene: Scene) -> None:
    other = scene.agent().wait_running()
    other.process.send_signal(signal.SIGTSTP)  # the tasks are for those that come
    until(lambda: other.record().get("status") == "draining", "it takes no tasks")
    damaged, environment = scene.code(), scene.environment()
    (damaged / "helper.py").unlink()
    package(scene).unlink()
    assert scene.serve()["afresh"] == 1
    assert damaged.is_dir()
    assert environment.is_dir()
    assert scene.code() != damaged
    again = scene.serve()
    assert (again["built"], again["fetched"], again["code"]) == (0, 0, str(scene.code()))
    assert damaged.is_dir()
    assert environment.is_dir()
    other.terminate()
    scene.repository.commit(scene.files(2))
    assert scene.serve()["commit"] == 2
    assert not damaged.exists()
    assert not environment.exists()


@pytest.mark.parametrize("lost", [".complete", "bin/python"])
def test_an_environment_in_use_by_another_queue_is_not_rebuilt_under_it(lost: str, bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    used = bench.deploy(queue="another")
    mark = used.environment / "mark"
    mark.touch()
    (used.environment / lost).unlink()
    fresh = bench.deploy()
    assert fresh.environment != used.environment
    assert version_in(fresh) == "1.0"
    assert mark.exists()
    assert bench.deploy(queue="third").environment == fresh.environment
    assert used.hold is not None
    used.hold.close()
    bench.repo.commit(main_dot_py="2")
    bench.deploy()
    bench.deploy(queue="another")
    bench.repo.commit(main_dot_py="3")
    for queue in (QUEUE, "another", "third"):
        bench.deploy(queue=queue, keep=1)
    assert bench.names("environments") == [fresh.environment.name]


def rebuilt(bench: Bench, release: Release) -> Release:
    return asyncio.run(bench.deployer().rebuild(release, Source(bench.repo.url, "main")))


def test_a_release_is_rebuilt_at_its_own_commit_without_the_repository(bench: Bench) -> None:
    commit = bench.repo.commit(jobs__main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    release = bench.deploy(code_path="jobs")
    bench.repo.commit(jobs__main_dot_py="2")
    bench.repo.path.rename(bench.repo.path.with_name("away"))
    fresh = rebuilt(bench, release)
    assert (fresh.commit, fresh.branch, fresh.code_path, fresh.reused) == (commit, "main", "jobs", False)
    assert (fresh.code_dir / "main.py").read_text(encoding="utf-8") == "1"
    assert fresh.name == release.name
    assert not release.root.exists()


def test_a_tree_that_its_author_made_read_only_is_removed() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # those of pytest are closed to others
        tree = Path(directory) / "tree"
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "b" / "file").touch()
        inner_first = (tree / "a" / "b" / "file", tree / "a" / "b", tree / "a", tree)
        for path in inner_first:
            path.chmod(0o555)
        if os.getuid() == 0:  # whom nothing is denied
            for path in (Path(directory), *inner_first):
                os.chown(path, NOBODY, NOBODY)
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                remove_tree(tree)
            finally:
                os._exit(tree.exists())
        assert os.waitpid(child, 0)[1] == 0


def test_an_environment_that_is_not_finished_is_not_used_by_a_second_agent(bench: Bench) -> None:
    bench.repo.commit(main_dot_py="1", requirements_dot_txt=REQUIREMENTS)
    finished = bench.deploy(queue="first")
    environment = finished.environment
    # As it is while pip has begun.
    take_away(environment / ".complete", *environment.glob("lib/python*/site-packages/tinypkg*"))
    assert finished.hold is not None
    finished.hold.close()

    async def second() -> Release:
        async with locked(bench.home / ".lock"):  # the first agent is at it
            waiting = asyncio.ensure_future(bench.deployer().prepare("second", Source(bench.repo.url, "main")))
            done, _ = await asyncio.wait({waiting}, timeout=2)
            assert not done
        return await waiting

    assert version_in(asyncio.run(second())) == "1.0"
