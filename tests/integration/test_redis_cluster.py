"""A worker on Redis Cluster: its queues are on different nodes, and what belongs to a task is in other slots."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from redis_kit import Cluster
from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import ServerInfo
from runqy_agent.demo.client import DAY, TaskClient, message
from runqy_agent.errors import ExitCode
from stage import Agent, Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runqy_agent.broker.asynq_pb2 import TaskMessage
    from runqy_agent.demo.redis_server import RedisServer

HIGH, LOW = "inference.high", "inference.low"
PRIORITIES = {HIGH: 9, LOW: 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


class ClusterClient(TaskClient):
    """Enqueues task by task: a transaction cannot span nodes."""

    def enqueue_all(self, messages: Any) -> list[str]:
        tasks: list[TaskMessage] = list(messages)
        for task in tasks:
            names = keys.queue_keys(task.queue)
            self.redis.sadd(keys.QUEUES, task.queue)
            # What the runqy server writes for its look-up by id, in a slot of its own.
            self.redis.hset(keys.LOOKUP_PREFIX + task.id, "queue", task.queue)
            self.redis.hset(names.task(task.id), mapping={"msg": task.SerializeToString(), "state": "pending"})
            self.redis.lpush(names.pending, task.id)
        return [task.id for task in tasks]


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path, deployments: Path) -> Iterator[Stage]:
    client = cluster.client()
    stage = Stage(tmp_path, deployments, client, cluster.address)  # the server names all nodes
    stage.client = ClusterClient(client)
    stage.queue("inference", sub_queues=PRIORITIES)
    yield stage
    stage.close()
    for key in client.scan_iter(count=1000):
        client.delete(key)


def start(stage: Stage, **settings: Any) -> Agent:
    return stage.agent(redis_cluster="true", concurrency=4, **settings)


def seconds_left(stage: Stage, key: str) -> int:
    ttl: Any = stage.redis.ttl(key)
    return int(ttl)


def expires(stage: Stage, key: str) -> bool:
    return seconds_left(stage, key) > 0


def test_the_two_queues_are_on_different_nodes(cluster: Cluster) -> None:
    assert cluster.node_of(keys.queue_keys(HIGH).pending) is not cluster.node_of(keys.queue_keys(LOW).pending)


def test_tasks_of_both_queues_complete_with_their_results_and_look_up_keys(stage: Stage) -> None:
    agent = start(stage).wait_running()
    queues = [HIGH, LOW] * 15
    ids = stage.client.enqueue_all(message(queue, b'{"n": %d}' % number) for number, queue in enumerate(queues))
    for queue, task_id in zip(queues, ids, strict=True):
        assert stage.until_state(queue, task_id, "completed", "archived", "retry") == "completed"
    for number, (queue, task_id) in enumerate(zip(queues, ids, strict=True)):
        info: Any = stage.client.info(queue, task_id)
        assert json.loads(info.result)["echo"] == {"n": number}
        lookup, result = keys.LOOKUP_PREFIX + task_id, keys.RESULT_PREFIX + task_id
        until(partial(expires, stage, lookup), "the look-up key expires with the task")  # written after the result
        assert stage.redis.get(result) == info.result
        for key in (lookup, result):
            assert DAY - 60 < seconds_left(stage, key) <= DAY
    for queue in (HIGH, LOW):
        assert stage.number(queue, "processed") == 15
        for part in ("pending", "active", "lease"):
            assert stage.ids(queue, part) == []
    assert agent.terminate() == 0


def test_retries_archives_and_tasks_without_retention_end_as_they_should(stage: Stage) -> None:
    start(stage).wait_running()
    archived = stage.client.enqueue(LOW, b'{"fail": "broken"}')
    retried = stage.client.enqueue(HIGH, b'{"retry": "later"}')
    done = stage.client.enqueue(LOW, b"{}", retention=0)
    assert stage.until_state(LOW, archived, "archived", "completed") == "archived"
    assert stage.until_state(HIGH, retried, "retry", "archived", "completed") == "retry"
    until(partial(expires, stage, keys.LOOKUP_PREFIX + archived), "the look-up key of the dead task expires")
    assert seconds_left(stage, keys.LOOKUP_PREFIX + retried) == -1
    assert stage.until_state(LOW, done, "completed", "archived") == "completed"
    info: Any = stage.client.info(HIGH, retried)
    assert info.message.error_msg == "later"
    # Due at once, it is forwarded by the worker and tried again.
    stage.redis.zadd(keys.queue_keys(HIGH).retry, {retried: 1})
    until(lambda: _retries(stage, HIGH, retried) == 2, "the retry was tried")


def _retries(stage: Stage, queue: str, task_id: str) -> int:
    info = stage.client.info(queue, task_id)
    return info.message.retried if info else 0


def test_the_records_of_the_worker_can_be_read(stage: Stage) -> None:
    agent = start(stage).wait_running()
    record = agent.record()
    assert record["queues"] == "map[inference.high:9 inference.low:3]"
    found: Any = stage.redis.zrange(keys.SERVERS, 0, -1)

    def server() -> ServerInfo:
        stored: Any = stage.redis.get(found[0])
        return ServerInfo.FromString(stored)

    until(lambda: server().status == "active", "the record on the other node is written too")
    info = server()
    assert (info.pid, info.status, dict(info.queues)) == (agent.pid, "active", PRIORITIES)
    assert agent.terminate() == 0
    assert stage.redis.zrange(keys.SERVERS, 0, -1) == []
    assert stage.redis.zrange(keys.WORKERS, 0, -1) == []
    assert agent.record() == {}


def test_a_task_is_cancelled_whatever_node_the_message_enters_at(
    stage: Stage, cluster: Cluster, tmp_path: Path
) -> None:
    start(stage).wait_running()
    for node in cluster.nodes:
        payload = json.dumps({"wait_for": str(tmp_path / "never")}).encode()
        task_id = stage.client.enqueue(HIGH, payload)
        stage.until_state(HIGH, task_id, "active")

        def cancelled(node: RedisServer = node, task_id: str = task_id) -> bool:
            node.client().publish(keys.CANCEL, task_id)
            return stage.state(HIGH, task_id) in {"retry", "archived"}

        until(cancelled, "the task is cancelled")


@pytest.mark.parametrize("restarted", [HIGH, LOW])
def test_the_restart_of_a_node_is_survived(stage: Stage, cluster: Cluster, restarted: str, tmp_path: Path) -> None:
    agent = start(stage).wait_running()
    gate = tmp_path / "gate"
    held = [stage.client.enqueue(queue, b'{"wait_for": "%s"}' % str(gate).encode()) for queue in (HIGH, LOW)]
    for queue, task_id in zip((HIGH, LOW), held, strict=True):
        stage.until_state(queue, task_id, "active")
    waiting = [stage.client.enqueue(queue, b"{}") for queue in (HIGH, LOW) for _ in range(10)]
    node = cluster.node_of(keys.queue_keys(restarted).pending)
    node.stop()
    gate.touch()  # these outcomes are ready while their node is away
    until(lambda: "trying again" in agent.log(), "the worker has noticed")
    node.start()
    cluster.until_ok()
    stage.follow(cluster.client())
    stage.client = ClusterClient(stage.redis)
    queues = [HIGH, LOW, *[HIGH] * 10, *[LOW] * 10]
    for queue, task_id in zip(queues, held + waiting, strict=True):
        assert stage.until_state(queue, task_id, "completed", "archived", "retry") == "completed"
    assert agent.terminate() == 0


def test_the_queues_of_other_nodes_go_on_while_one_node_is_away(tmp_path: Path, deployments: Path) -> None:
    cluster = Cluster(["--cluster-require-full-coverage", "no"])
    stage = Stage(tmp_path, deployments, cluster.client(), cluster.address)
    stage.client = ClusterClient(stage.redis)
    stage.queue("inference", sub_queues=PRIORITIES)
    try:
        agent = start(stage).wait_running()
        gate = tmp_path / "gate"
        held = stage.client.enqueue(HIGH, b'{"wait_for": "%s"}' % str(gate).encode())
        stage.until_state(HIGH, held, "active")
        waiting = [stage.client.enqueue(HIGH, b"{}") for _ in range(5)]
        away = cluster.node_of(keys.queue_keys(HIGH).pending)
        away.stop()
        gate.touch()
        until(lambda: "trying again" in agent.log(), "the worker has noticed")
        low = keys.queue_keys(LOW)
        for number in range(10):
            task = message(LOW, b"{}", task_id=f"low-{number}")
            with cluster.node_of(low.pending).client() as client:
                client.hset(low.task(task.id), mapping={"msg": task.SerializeToString(), "state": "pending"})
                client.lpush(low.pending, task.id)
            assert stage.until_state(LOW, task.id, "completed", "archived", "retry") == "completed"
        away.start()
        cluster.until_ok()
        stage.follow(cluster.client())
        for task_id in (held, *waiting):
            assert stage.until_state(HIGH, task_id, "completed", "archived", "retry") == "completed"
        assert agent.terminate() == 0
    finally:
        stage.close()
        cluster.close()


def test_a_replica_that_takes_over_is_found(tmp_path: Path, deployments: Path) -> None:
    cluster = Cluster()
    master = cluster.node_of(keys.queue_keys(HIGH).pending)
    replica = cluster.add_replica(master)
    stage = Stage(tmp_path, deployments, cluster.client(), cluster.address)
    stage.client = ClusterClient(stage.redis)
    stage.queue("inference", sub_queues=PRIORITIES)
    try:
        agent = start(stage).wait_running()
        gate = tmp_path / "gate"
        held = stage.client.enqueue(HIGH, b'{"wait_for": "%s"}' % str(gate).encode())
        stage.until_state(HIGH, held, "active")
        waiting = [stage.client.enqueue(HIGH, b"{}") for _ in range(5)]
        with master.client() as client:
            until(lambda: client.wait(1, 1000) == 1, "the replica has all writes")
        master.kill()
        gate.touch()
        with replica.client() as client:
            until(lambda: client.info("replication")["role"] == "master", "the replica has taken over")
        stage.follow(redis.RedisCluster(host="127.0.0.1", port=replica.port))  # type: ignore[arg-type]
        for task_id in (held, *waiting):
            assert stage.until_state(HIGH, task_id, "completed", "archived", "retry") == "completed"
        assert agent.terminate() == 0
    finally:
        stage.close()
        replica.close()
        cluster.close()


def test_a_cluster_is_not_taken_for_a_server_nor_a_server_for_a_cluster(
    stage: Stage, cluster: Cluster, redis_server: RedisServer
) -> None:
    agent = stage.agent(redis_address=cluster.nodes[0].address)
    assert agent.wait() == ExitCode.BROKER
    assert "is a node of a Redis Cluster: set redis.cluster: true" in agent.log()
    agent = stage.agent()
    assert agent.wait() == ExitCode.BROKER
    assert "the server gave 3 addresses of Redis" in agent.log()
    agent = start(stage, redis_address=redis_server.address)
    assert agent.wait() == ExitCode.BROKER
    assert "cluster support is disabled there" in agent.log()
    stage.server.redis["db"] = 3
    agent = start(stage)
    assert agent.wait() == ExitCode.BROKER
    assert "the server names the database 3, but Redis Cluster has no other than 0" in agent.log()
