"""New code while a worker runs and when it starts: what serves, what is told of it, and what is never tried twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from host_kit import Manager, asked, command
from stage import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runqy_agent.demo.repositories import GitRepository
    from stage import Agent, Stage

QUEUE = "inference.default"
AUTHOR = """
import json, os, sys, time

VERSION = 1
BEFORE = None
print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    while isinstance(task["payload"], str) and not os.path.exists(task["payload"]):
        time.sleep(0.005)
    print(json.dumps({"task_id": task["task_id"], "result": VERSION}), flush=True)
"""
BROKEN = "sys.exit('no such model')"


def version(number: int, before: str = "None") -> dict[str, str]:
    return {"main.py": AUTHOR.replace("VERSION = 1", f"VERSION = {number}").replace("BEFORE = None", before)}


class Scene:
    """One queue, its repository, and the worker's status endpoint."""

    def __init__(self, stage: Stage, address: str) -> None:
        self.stage = stage
        self.address = address
        self.repository: GitRepository = stage.queue("inference", version(1) | {"requirements.txt": "# nothing\n"})
        self.deployments = stage.directory / "deployments"  # what one test refuses must not be known to another

    def agent(self, **settings: Any) -> Agent:
        settings = {"status_listen": self.address, "deployment_dir": self.deployments, **settings}
        return self.stage.agent(**settings).wait_running()

    def redeploy(self) -> tuple[int, dict[str, str]]:
        """Ask for it with the command. Returns its exit code and what came of it."""
        done = command("redeploy", "--address", self.address, "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["results"]["inference"]

    def serves(self) -> int:
        """Which version runs a task now."""
        task = self.stage.client.enqueue(QUEUE, b"0")
        self.stage.until_state(QUEUE, task, "completed")
        info = self.stage.client.info(QUEUE, task)
        assert info is not None
        assert info.message.retried == 0
        return int(info.result or b"0")

    def process(self) -> dict[str, Any]:
        found: dict[str, Any] = asked("status", "--address", self.address)["processes"]["inference"]
        return found

    def is_stale(self, agent: Agent, serving: str, wanted: str, reason: str) -> None:
        """Everybody is told: the status, the heartbeat, the log."""
        process = self.process()
        assert (process["stale"], process["commit"], process["wanted"]) == (True, serving, wanted)
        assert reason in process["stale_reason"]
        until(lambda: json.loads(agent.record()["stale"]), "the heartbeat tells it")
        told = json.loads(agent.record()["stale"])["inference"]
        assert (told["commit"], told["wanted"]) == (serving, wanted)
        assert reason in told["reason"]
        assert json.loads(agent.record()["commits"]) == {"inference": serving}
        assert agent.record()["healthy"] == "true"
        assert reason in agent.log()
        shown = command("status", "--address", self.address).stdout
        assert f"commit {serving[:12]} serves instead of {wanted[:12]}" in shown


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Scene:
    return Scene(stage, str(tmp_path / "status.sock"))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def head(scene: Scene) -> str:
    return scene.repository.git("rev-parse", "HEAD")


def test_new_code_takes_over_and_the_old_finishes_what_it_has(scene: Scene, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    agent = scene.agent(concurrency=2)
    slow = scene.stage.client.enqueue(QUEUE, json.dumps(str(gate)).encode())
    until(lambda: scene.process()["processes"][0]["tasks"], "the old code works on it")
    commit = scene.repository.commit(version(2))
    assert scene.redeploy() == (0, {"outcome": "switched", "commit": commit, "reason": ""})
    assert scene.serves() == 2
    assert scene.stage.state(QUEUE, slow) == "active"
    gate.touch()
    scene.stage.until_state(QUEUE, slow, "completed")
    info = scene.stage.client.info(QUEUE, slow)
    assert info is not None
    assert (info.result, info.message.retried) == (b"1", 0)
    assert scene.redeploy() == (0, {"outcome": "unchanged", "commit": commit, "reason": ""})
    assert scene.stage.number(QUEUE, "failed") == 0
    assert agent.terminate() == 0


def test_a_commit_that_breaks_the_start_leaves_the_old_code_in_service_and_is_not_tried_again(scene: Scene) -> None:
    agent, good = scene.agent(), head(scene)
    bad = scene.repository.commit(version(2, BROKEN))
    code, result = scene.redeploy()
    assert (code, result["outcome"], result["commit"]) == (1, "failed", good)
    assert "no such model" in result["reason"]
    assert scene.serves() == 1
    scene.is_stale(agent, good, bad, "no such model")
    starts = agent.log().count("started, waiting until it is ready")
    code, result = scene.redeploy()
    assert (code, result["outcome"]) == (1, "unchanged")
    assert "is not tried again" in result["reason"]
    assert agent.log().count("started, waiting until it is ready") == starts
    mended = scene.repository.commit(version(3))
    assert scene.redeploy() == (0, {"outcome": "switched", "commit": mended, "reason": ""})
    assert scene.serves() == 3
    assert not scene.process()["stale"]
    assert agent.terminate() == 0


def test_a_worker_that_starts_with_a_broken_commit_starts_the_release_before(scene: Scene) -> None:
    scene.agent().terminate()
    good = head(scene)
    bad = scene.repository.commit(version(2, BROKEN))
    for attempt in (1, 2):  # the second start does not even try
        agent = scene.agent()
        assert scene.serves() == 1
        scene.is_stale(agent, good, bad, "no such model")
        assert agent.log().count("started, waiting until it is ready") == 3 - attempt
        assert agent.terminate() == 0


@pytest.mark.parametrize("when", ["start", "redeploy"])
def test_requirements_that_cannot_be_installed_leave_the_old_code_in_service(scene: Scene, when: str) -> None:
    agent, good = scene.agent(), head(scene)
    bad = scene.repository.commit(version(2) | {"requirements.txt": "./no-such-package-anywhere\n"})
    if when == "start":
        agent.terminate()
        agent = scene.agent()
    else:
        code, result = scene.redeploy()
        assert (code, result["outcome"], result["commit"]) == (1, "failed", good)
    assert scene.serves() == 1
    scene.is_stale(agent, good, bad, "no-such-package-anywhere")
    assert agent.terminate() == 0


def test_a_git_server_that_is_away_is_told_of_and_what_is_there_serves(scene: Scene) -> None:
    scene.agent().terminate()
    good, directory = head(scene), scene.repository.directory
    directory.rename(directory.with_name("away"))
    agent = scene.agent()
    assert scene.serves() == 1
    process = scene.process()
    assert (process["stale"], process["commit"], process["wanted"]) == (True, good, "")
    assert process["stale_reason"]
    assert json.loads(agent.record()["stale"])["inference"]["commit"] == good
    code, result = scene.redeploy()
    assert (code, result["outcome"], result["commit"]) == (1, "failed", good)
    directory.with_name("away").rename(directory)
    assert scene.redeploy() == (0, {"outcome": "unchanged", "commit": good, "reason": ""})
    assert not scene.process()["stale"]
    assert agent.terminate() == 0


def test_systemd_is_told_of_the_reload_and_of_its_end_and_in_words_of_what_is_stale(
    scene: Scene, manager: Manager
) -> None:
    agent, good = scene.agent(environment=manager.environment), head(scene)
    until(lambda: "READY=1" in manager.heard, "it is ready")
    bad = scene.repository.commit(version(2, BROKEN))
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: "RELOADING=1" in manager.heard, "it reloads")
    until(lambda: "READY=1" in manager.heard[manager.heard.index("RELOADING=1") :], "it has reloaded")
    after = manager.heard[manager.heard.index("RELOADING=1") :]
    assert after[1].startswith("MONOTONIC_USEC=")
    words = f"inference ready (stale: commit {good[:12]} serves instead of {bad[:12]}: "
    until(lambda: any(words in line for line in manager.heard), "the words tell it")
    assert agent.terminate() == 0


def test_a_worker_in_one_shot_mode_goes_over_to_new_code_too(stage: Stage, scene: Scene) -> None:
    stage.server.queues["inference"].deployment["mode"] = "one_shot"
    agent = scene.agent()
    assert scene.serves() == 1
    scene.repository.commit(version(2))
    assert scene.redeploy()[1]["outcome"] == "switched"
    assert scene.serves() == 2
    assert agent.terminate() == 0


def test_what_the_processes_print_is_shown_by_the_command_and_kept_in_redis(stage: Stage, scene: Scene) -> None:
    noisy = (
        '[print("line", n, file=sys.stderr) for n in range(700)]; print("fin", os.environ["TOKEN"], file=sys.stderr)'
    )
    scene.repository.commit(version(1, noisy))
    stage.server.queues["inference"].vaults = {"TOKEN": "vault-hush-2211"}
    agent = scene.agent(log_level="warning")
    key = until(
        lambda: next(iter(stage.redis.scan_iter("asynq:workers:*:logs", _type="LIST")), None), "the list is there"
    )
    until(lambda: stage.redis.llen(key) == 500, "the newest 500 are there")
    stored: Any = [json.loads(line) for line in stage.redis.lrange(key, 0, -1)]
    assert [line["text"] for line in stored] == [*(f"line {n}" for n in range(201, 700)), "fin ***"]
    assert {line["src"] for line in stored} == {"stderr"}
    assert [line["seq"] for line in stored] == list(range(202, 702))
    assert 0 < stage.redis.ttl(key) <= 30
    shown = asked("logs", "--address", scene.address, "--lines", "3")
    assert shown["worker_id"] in key.decode()
    assert [line["text"] for line in shown["lines"]] == ["line 698", "line 699", "fin ***"]
    text = command("logs", "--address", scene.address, "--lines", "1", "--queue", "inference").stdout
    assert text.endswith(" inference stderr| fin ***\n")
    assert "hush" not in agent.log() + json.dumps(asked("logs", "--address", scene.address, "--lines", "500"))
    assert agent.terminate() == 0
    assert not stage.redis.exists(key)


def test_following_the_output_goes_on_with_the_next_worker(scene: Scene, tmp_path: Path) -> None:
    scene.repository.commit(version(1, 'print("hello from", os.getpid())'))
    agent = scene.agent()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    output = tmp_path / "followed"
    # Whoever started these tests in the background may have had them ignore SIGINT: that is inherited.
    interruptible = ["env", "--default-signal=INT"]
    with output.open("wb") as file:
        follow = subprocess.Popen(
            [*interruptible, sys.executable, "-m", "runqy_agent", "logs", "--follow", "--address", scene.address],
            stdout=file,
            env=environment,
        )
    try:
        until(lambda: output.read_text().count("hello from") == 1, "the first is shown")
        agent.terminate()
        scene.agent()
        until(lambda: output.read_text().count("hello from") == 2, "the next one too")
        follow.send_signal(signal.SIGINT)
        assert follow.wait(PATIENCE) == 0
    finally:
        follow.kill()
        follow.wait()
