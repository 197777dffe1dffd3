"""What the server says anew about the queues: sub-queues come and go, weights change, some of it needs a restart."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from host_kit import asked, command
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Agent, Stage

HIGH, LOW, NEW = "inference.high", "inference.low", "inference.new"
AUTHOR = """
import json, os, sys, time

print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    while isinstance(task["payload"], str) and not os.path.exists(task["payload"]):
        time.sleep(0.005)
    print(json.dumps({"task_id": task["task_id"], "result": task["queue"]}), flush=True)
"""
FILES = {"main.py": AUTHOR, "requirements.txt": "# nothing\n"}


class Scene:
    """One parent queue with two sub-queues."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage = stage
        self.directory = directory
        self.address = str(directory / "status.sock")
        self.repository = stage.queue("inference", FILES, {HIGH: 9, LOW: 3})
        self.definition = stage.server.queues["inference"]

    def agent(self, queues: str = "inference", **settings: Any) -> Agent:
        settings = {"status_listen": self.address, "deployment_dir": self.directory / "deployments", **settings}
        return self.stage.agent(queues, **settings).wait_running()

    def redeploy(self) -> tuple[int, dict[str, Any]]:
        done = command("redeploy", "--address", self.address, "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def serves(self, queue: str) -> None:
        """A task of this queue is run."""
        self.stage.until_state(queue, self.stage.client.enqueue(queue, b"0"), "completed")


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Scene:
    return Scene(stage, tmp_path)


def test_a_new_sub_queue_is_served_a_removed_one_is_not_and_weights_change(scene: Scene) -> None:
    agent = scene.agent(concurrency=2, processes=2)
    gate = scene.directory / "gate"
    slow = scene.stage.client.enqueue(LOW, json.dumps(str(gate)).encode())
    until(lambda: asked("status", "--address", scene.address)["running"] == 1, "a task of the old sub-queue runs")
    scene.definition.sub_queues = {HIGH: 2, NEW: 5}
    code, answer = scene.redeploy()
    assert (code, answer["results"]["inference"]["outcome"], answer["restart"]) == (0, "unchanged", [])
    scene.serves(NEW)
    scene.serves(HIGH)
    left = scene.stage.client.enqueue(LOW, b"0")
    scene.serves(NEW)
    assert asked("status", "--address", scene.address)["queues"] == {HIGH: 2, NEW: 5}
    until(lambda: agent.record()["queues"] == f"map[{HIGH}:2 {NEW}:5]", "the heartbeat tells it")
    gate.touch()
    scene.stage.until_state(LOW, slow, "completed")  # what it has begun it ends
    scene.serves(NEW)
    assert scene.stage.state(LOW, left) == "pending"
    scene.definition.sub_queues = {HIGH: 9, LOW: 3}
    assert scene.redeploy()[0] == 0
    scene.stage.until_state(LOW, left, "completed")
    assert agent.terminate() == 0
    assert scene.stage.number(LOW, "failed") == 0


def test_scheduled_tasks_of_a_new_sub_queue_become_pending_and_leases_there_are_recovered(scene: Scene) -> None:
    agent = scene.agent()
    names = keys.queue_keys(NEW)
    waiting = scene.stage.client.enqueue(NEW, b"0")
    scene.stage.redis.lrem(names.pending, 1, waiting)
    scene.stage.redis.hset(names.task(waiting), "state", "scheduled")
    scene.stage.redis.zadd(names.scheduled, {waiting: 1})
    lost = scene.stage.client.enqueue(NEW, b"0")
    scene.stage.redis.lrem(names.pending, 1, lost)
    scene.stage.redis.hset(names.task(lost), "state", "active")
    scene.stage.redis.rpush(names.active, lost)
    scene.stage.redis.zadd(names.lease, {lost: 1})
    scene.definition.sub_queues = {NEW: 1}
    assert scene.redeploy()[0] == 0
    scene.stage.until_state(NEW, waiting, "completed")
    scene.stage.until_state(NEW, lost, "completed", "retry", "pending", "active")
    until(lambda: lost not in scene.stage.ids(NEW, "active"), "the lease is recovered")
    assert agent.terminate() == 0


def test_a_worker_of_single_sub_queues_follows_only_those(scene: Scene) -> None:
    agent = scene.agent(f"{HIGH},{NEW}")
    assert asked("status", "--address", scene.address)["queues"] == {HIGH: 9}
    scene.definition.sub_queues = {HIGH: 4, LOW: 3, NEW: 5}
    assert scene.redeploy()[0] == 0
    assert asked("status", "--address", scene.address)["queues"] == {HIGH: 4, NEW: 5}
    scene.definition.sub_queues = {LOW: 3}
    code, answer = scene.redeploy()
    assert (code, answer["results"]["inference"]["outcome"]) == (1, "failed")
    assert "the server offers none of the configured queues" in answer["results"]["inference"]["reason"]
    scene.serves(HIGH)
    assert agent.terminate() == 0


def test_another_redis_asks_for_a_restart_everywhere_without_a_secret_and_the_rest_is_done(scene: Scene) -> None:
    agent = scene.agent()
    host, _, port = scene.stage.server.redis["addr"].rpartition(":")
    scene.stage.server.redis |= {"addr": f"{host}:{int(port) - 1}", "password": "redis-hush-1199"}
    scene.definition.sub_queues = {HIGH: 1, NEW: 1}
    code, answer = scene.redeploy()
    assert (code, answer["results"]["inference"]["outcome"]) == (1, "unchanged")
    assert answer["restart"] == ["the server names another Redis for queue inference (changed: port, password)"]
    scene.serves(NEW)
    done = command("redeploy", "--address", scene.address)
    assert done.returncode == 1
    assert f"restart the worker to bring this into effect: {answer['restart'][0]}" in done.stdout.splitlines()
    status = asked("status", "--address", scene.address)
    assert status["redeploy"]["restart"] == answer["restart"]
    shown = command("status", "--address", scene.address).stdout
    assert f"restart needed    {answer['restart'][0]}" in shown.splitlines()
    assert answer["restart"][0] in agent.log()
    everything = agent.log() + shown + done.stdout + json.dumps(status)
    assert "hush" not in everything
    assert "ServerRedis(" not in everything
    scene.stage.server.redis |= {"addr": f"{host}:{port}", "password": ""}
    assert scene.redeploy()[1]["restart"] == []
    assert agent.terminate() == 0


def test_another_redis_that_the_configuration_overrides_is_none(scene: Scene) -> None:
    address = scene.stage.server.redis["addr"]
    agent = scene.agent(redis_address=address)
    scene.stage.server.redis["addr"] = "redis.example.com:1"
    code, answer = scene.redeploy()
    assert (code, answer["restart"]) == (0, [])
    assert agent.terminate() == 0


def test_settings_that_have_changed_ask_for_a_restart_by_their_names_alone(scene: Scene) -> None:
    config, key = scene.directory / "config.yml", scene.directory / "key"
    key.write_text("stage-api-key-1234")
    config.write_text(f"worker:\n  concurrency: 2\nserver:\n  api_key_file: {key}\n")
    agent = scene.agent(config_file=config, api_key="")
    assert scene.redeploy()[1]["restart"] == []
    config.write_text(config.read_text().replace("concurrency: 2", "concurrency: 3"))
    key.write_text("new-hush-key")
    code, answer = scene.redeploy()
    assert (code, answer["restart"]) == (1, ["changed settings: server.api_key, worker.concurrency"])
    config.write_text("worker:\n  concurency: 2\n")
    code, answer = scene.redeploy()
    assert code == 1
    assert answer["restart"][0].startswith("the configuration is no longer valid: ")
    assert "hush" not in agent.log()
    assert agent.terminate() == 0


def test_a_changed_mode_asks_for_a_restart_and_the_old_one_serves_on(scene: Scene) -> None:
    agent = scene.agent()
    scene.definition.deployment["mode"] = "one_shot"
    code, answer = scene.redeploy()
    assert (code, answer["results"]["inference"]["outcome"]) == (1, "failed")
    assert answer["restart"] == ["the mode of queue inference is one_shot now"]
    scene.serves(HIGH)
    assert agent.terminate() == 0


def test_a_vault_value_that_was_rotated_reaches_the_process_without_a_restart_of_the_worker(scene: Scene) -> None:
    show = AUTHOR.replace('task["queue"]', 'os.environ["DATABASE_PASSWORD"]')
    scene.repository.commit({"main.py": show})
    scene.definition.vaults = {"DATABASE_PASSWORD": "first-hush-1"}
    agent = scene.agent()

    def password() -> bytes | None:
        task = scene.stage.client.enqueue(HIGH, b"0")
        scene.stage.until_state(HIGH, task, "completed")
        info = scene.stage.client.info(HIGH, task)
        assert info is not None
        return info.result

    assert password() == b'"first-hush-1"'
    scene.definition.vaults = {"DATABASE_PASSWORD": "second-hush-2"}
    code, answer = scene.redeploy()
    assert (code, answer["results"]["inference"]["outcome"]) == (0, "switched")
    assert password() == b'"second-hush-2"'
    assert "hush" not in agent.log()
    assert agent.terminate() == 0


def test_the_old_release_stays_until_its_last_task_has_ended_and_goes_then(scene: Scene) -> None:
    config, gate = scene.directory / "config.yml", scene.directory / "gate"
    config.write_text("deployment:\n  keep_releases: 1\n")
    agent = scene.agent(config_file=config, concurrency=2)
    first = scene.repository.git("rev-parse", "HEAD")
    slow = scene.stage.client.enqueue(HIGH, json.dumps(str(gate)).encode())
    until(lambda: asked("status", "--address", scene.address)["running"] == 1, "the old code works on it")

    def releases() -> set[str]:
        home = scene.directory / "deployments" / "queues" / "inference" / "releases"
        return {path.name[:7] for path in home.iterdir() if not path.name.startswith(".")}

    def change(number: int) -> None:
        scene.repository.commit({"main.py": f"{AUTHOR}# {number}\n"})
        assert scene.redeploy()[1]["results"]["inference"]["outcome"] == "switched"

    for number in (1, 2, 3):
        change(number)
        assert first[:7] in releases()
    assert len(releases()) <= 4  # it, the current, the one before, and one whose process may only just have ended
    gate.touch()
    scene.stage.until_state(HIGH, slow, "completed")

    def gone() -> bool:
        change(int(time.monotonic_ns()))
        return first[:7] not in releases()

    until(gone, "nothing keeps it any more")
    assert agent.terminate() == 0


def test_whether_results_are_stored_changes_without_a_restart(scene: Scene) -> None:
    agent = scene.agent()
    scene.definition.deployment["redis_storage"] = False
    assert scene.redeploy()[0] == 0
    task = scene.stage.client.enqueue(HIGH, b"0", retention=60)
    scene.stage.until_state(HIGH, task, "completed")
    info = scene.stage.client.info(HIGH, task)
    assert info is not None
    assert not info.result
    assert agent.terminate() == 0
