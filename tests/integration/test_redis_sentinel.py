"""A fail-over, watched by sentinels or behind an address that moves: the worker goes on by itself and loses nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from redis.sentinel import Sentinel

from redis_kit import MASTER, MovingAddress, Sentinels, pair
from runqy_agent.demo.client import message
from runqy_agent.errors import ExitCode
from stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from runqy_agent.demo.redis_server import RedisServer
    from stage import Agent

QUEUE = "inference.default"


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    sentinels = Sentinels()
    yield sentinels
    sentinels.close()


@pytest.fixture
def stage(sentinels: Sentinels, tmp_path: Path, deployments: Path) -> Iterator[Stage]:
    nodes = [("127.0.0.1", sentinel.port) for sentinel in sentinels.sentinels]
    client = Sentinel(nodes).master_for(MASTER)
    # The server says an address of old times; the sentinels know better.
    stage = Stage(tmp_path, deployments, client, "127.0.0.1:1")
    stage.queue("inference")
    yield stage
    stage.close()


def start(stage: Stage, sentinels: Sentinels) -> Agent:
    config = stage.directory / "config.yml"
    section = {"master_name": MASTER, "nodes": sentinels.nodes}
    config.write_text(yaml.safe_dump({"redis": {"sentinel": section}}), encoding="utf-8")
    return stage.agent(concurrency=3, config_file=config).wait_running()


class Work:
    """A stream of tasks, of which the first ones run until they are let go."""

    def __init__(self, stage: Stage, gate: Path) -> None:
        self._stage = stage
        self._gate = gate
        held = [b'{"wait_for": "%s"}' % str(gate).encode()] * 3
        rest = [b'{"n": %d}' % number for number in range(50)]
        self.ids = stage.client.enqueue_all([message(QUEUE, payload) for payload in held + rest])
        until(lambda: len(stage.ids(QUEUE, "active")) == 3, "three tasks are running")

    def let_go(self) -> None:
        self._gate.touch()

    def assert_all_completed_once(self) -> None:
        def ended() -> bool:
            return all(self._stage.state(QUEUE, task_id) in {"completed", "archived", "retry"} for task_id in self.ids)

        until(ended, "every task has ended")
        infos: list[Any] = [self._stage.client.info(QUEUE, task_id) for task_id in self.ids]
        assert {info.state for info in infos} == {"completed"}
        assert [info.message.retried for info in infos] == [0] * len(self.ids)
        assert self._stage.number(QUEUE, "processed") == len(self.ids)
        assert self._stage.ids(QUEUE, "active") == self._stage.ids(QUEUE, "lease") == []


def wait_for_replica(client: redis.Redis) -> None:
    """Replication is asynchronous, and what the kill of a master loses by that is not our subject."""
    until(lambda: client.wait(1, 1000) == 1, "the replica has all writes")


def agents_at(server: RedisServer) -> int:
    with server.client() as client:
        clients: Any = client.client_list()
    return sum(each["name"] == "runqy-agent" for each in clients)


def complete_one(stage: Stage) -> None:
    task_id = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"


def test_the_worker_survives_the_death_of_the_master_and_its_return_as_a_replica(
    stage: Stage, sentinels: Sentinels, tmp_path: Path
) -> None:
    agent = start(stage, sentinels)
    work = Work(stage, tmp_path / "gate")
    wait_for_replica(stage.redis)
    old = sentinels.master()
    old.kill()
    work.let_go()  # the outcomes are ready while there is no master, and are written to the next one
    new = sentinels.until_promoted(old)
    work.assert_all_completed_once()

    old.start()
    until(lambda: sentinels.follows(old, new), "the old master is a replica now")
    complete_one(stage)
    assert agents_at(old) == 0
    assert agents_at(new) > 0
    until(partial(agent.record), "the worker shows itself on the new master")
    assert agent.terminate() == 0


def test_a_planned_fail_over_goes_unnoticed_by_the_tasks(stage: Stage, sentinels: Sentinels, tmp_path: Path) -> None:
    agent = start(stage, sentinels)
    work = Work(stage, tmp_path / "gate")
    old = sentinels.master()
    sentinels.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", MASTER)
    new = sentinels.until_promoted(old)
    # The old master still takes writes, for about ten seconds, and will forget them.
    until(lambda: f"the master is {new.address} now" in agent.log(), "the worker was told")
    until(lambda: agents_at(old) == 0, "no connection is left to the old master")
    work.let_go()
    until(lambda: sentinels.follows(old, new), "the old master is a replica now")
    work.assert_all_completed_once()
    complete_one(stage)
    until(lambda: agents_at(old) == 0, "no connection is left to the old master")
    assert agent.terminate() == 0


def test_sentinels_that_cannot_help_end_the_start_with_6_and_what_each_said(stage: Stage, sentinels: Sentinels) -> None:
    settings = {"redis_sentinel_nodes": f"127.0.0.1:1,{sentinels.nodes[0]}", "redis_sentinel_master_name": "other"}
    agent = stage.agent(**settings)
    assert agent.wait() == ExitCode.BROKER
    assert "no sentinel says where the master is (127.0.0.1:1: Error 111" in agent.log()
    assert f'{sentinels.nodes[0]}: knows no master of the name "other"' in agent.log()


def test_an_address_that_moves_is_followed_when_the_old_master_refuses_to_write(
    tmp_path: Path, deployments: Path
) -> None:
    """A virtual IP or a name: connections to the old master stay open, and it is alive, but a replica."""
    old, new = pair()
    address = MovingAddress(old.port)
    stage = Stage(tmp_path, deployments, old.client(), address.text)
    try:
        stage.queue("inference")
        agent = stage.agent(concurrency=3).wait_running()
        work = Work(stage, tmp_path / "gate")
        wait_for_replica(stage.redis)
        new.client().replicaof("NO", "ONE")
        old.client().replicaof("127.0.0.1", str(new.port))
        address.move(new.port)
        stage.follow(new.client())
        work.let_go()
        work.assert_all_completed_once()
        complete_one(stage)
        until(lambda: agents_at(old) == 0, "no connection is left to the old master")
        assert agent.terminate() == 0
        assert "is no longer the master" in agent.log()
    finally:
        stage.close()
        address.close()
        old.close()
        new.close()


def test_a_server_that_is_a_replica_for_a_while_is_waited_for(tmp_path: Path, deployments: Path) -> None:
    old, new = pair()
    stage = Stage(tmp_path, deployments, old.client(), old.address)
    try:
        stage.queue("inference")
        agent = stage.agent(concurrency=3).wait_running()
        work = Work(stage, tmp_path / "gate")
        wait_for_replica(stage.redis)
        new.client().replicaof("NO", "ONE")
        old.client().replicaof("127.0.0.1", str(new.port))
        work.let_go()
        until(lambda: "is no longer the master" in agent.log(), "the worker has noticed")
        old.client().replicaof("NO", "ONE")
        work.assert_all_completed_once()
        complete_one(stage)
        assert agent.terminate() == 0
    finally:
        stage.close()
        old.close()
        new.close()


def test_a_replica_is_refused_at_the_start(tmp_path: Path, deployments: Path) -> None:
    master, replica = pair()
    stage = Stage(tmp_path, deployments, master.client(), replica.address)
    try:
        stage.queue("inference")
        agent = stage.agent()
        assert agent.wait() == ExitCode.BROKER
        assert f"is a read-only replica of 127.0.0.1:{master.port}" in agent.log()
    finally:
        stage.close()
        replica.close()
        master.close()
