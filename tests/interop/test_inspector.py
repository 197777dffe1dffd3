"""What asynq's Inspector sees of our worker and its queues, and what it does to them."""

from __future__ import annotations

import json
import time
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pytest

from interop.peer import PeerError, start_agent, until_seen
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from interop.peer import Peer
    from stage import Stage

QUEUE = "inference.default"
HIGH, LOW = "inference.high", "inference.low"
SUBS = {HIGH: 9, LOW: 3}
ENDS = ("completed", "archived", "retry")


def test_a_queues_numbers_and_history_are_right_in_every_state(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    start_agent(stage, peer)
    gate, never = tmp_path / "gate", str(tmp_path / "never")
    ids: dict[str, list[str]] = {
        "completed": [peer.enqueue(QUEUE, retention="1h")["ID"]],
        "archived": [peer.enqueue(QUEUE, {"needs": never})["ID"]],
        "retry": [peer.enqueue(QUEUE, {"needs": never, "retry": True})["ID"]],
        "active": [peer.enqueue(QUEUE, {"wait_for": str(gate)})["ID"]],
        "pending": [peer.enqueue(QUEUE)["ID"], peer.enqueue(QUEUE)["ID"]],
        "scheduled": [peer.enqueue(QUEUE, process_in="1h")["ID"]],
    }
    for state, tasks in ids.items():
        stage.until_state(QUEUE, tasks[0], state)
    info = peer.queue_info(QUEUE)
    assert {state: info[state.title()] for state in ids} == {state: len(tasks) for state, tasks in ids.items()}
    assert info["Size"] == sum(map(len, ids.values()))
    assert not info["Paused"]
    assert info["Latency"] > 0
    assert (info["ProcessedTotal"], info["FailedTotal"]) == (3, 2)
    assert peer.totals(QUEUE) == (3, 2)
    for state, tasks in ids.items():
        assert set(peer.ids(QUEUE, state)) == set(tasks)
    (active,) = peer.call("tasks", QUEUE, "active")
    assert not active["IsOrphaned"]
    gate.touch()
    for task_id in ids["active"] + ids["pending"]:
        assert stage.until_state(QUEUE, task_id, *ENDS) == "completed"
    assert peer.totals(QUEUE) == (6, 2)


def test_a_worker_is_one_server_with_its_active_tasks_and_one_entry_for_the_runqy_server(
    stage: Stage, peer: Peer, tmp_path: Path
) -> None:
    stage.queue("inference", sub_queues=SUBS)
    agent = stage.agent(concurrency=2).wait_running()
    gate = tmp_path / "gate"
    payload = {"wait_for": str(gate)}
    before = int(time.time())
    ids = {queue: peer.enqueue(queue, payload, type="predict", timeout="10m")["ID"] for queue in SUBS}

    def busy() -> Any:
        return [server for server in peer.servers() if len(server["ActiveWorkers"]) == len(ids)]

    (server,) = until_seen(busy, "the Inspector lists both tasks")
    assert (server["PID"], server["Concurrency"], server["Queues"]) == (agent.pid, 2, SUBS)
    assert (server["Status"], server["StrictPriority"]) == ("active", False)
    assert abs(server["Started"] - time.time()) < 600
    assert {worker["Queue"]: worker["TaskID"] for worker in server["ActiveWorkers"]} == ids
    for worker in server["ActiveWorkers"]:
        assert (worker["TaskType"], json.loads(worker["TaskPayload"])) == ("predict", payload)
        assert before <= worker["Started"] <= time.time()
        assert worker["Deadline"] - worker["Started"] in {600, 601}  # each is cut to whole seconds

    # The other reader, at the same moment: what the runqy server's scan takes for workers.
    (entry,) = stage.redis.scan_iter("asynq:workers:*", _type="HASH")
    assert entry.decode() == f"asynq:workers:{server['Host']}:{agent.pid}:{server['ID']}"
    assert agent.record()["status"] == "running"

    gate.touch()
    for queue, task_id in ids.items():
        assert stage.until_state(queue, task_id, *ENDS) == "completed"
    assert agent.terminate() == 0
    assert peer.servers() == []


@pytest.fixture
def list_events(stage: Stage) -> Iterator[None]:
    """Redis announces every change of a list."""
    stage.redis.config_set("notify-keyspace-events", "Kl")
    yield
    stage.redis.config_set("notify-keyspace-events", "")


def test_a_paused_queue_stays_untouched_while_others_are_served(stage: Stage, peer: Peer, list_events: None) -> None:
    stage.queue("inference", sub_queues=SUBS)
    stage.agent().wait_running()
    for queue in SUBS:  # from now on the worker waits for tasks of both
        assert stage.until_state(queue, peer.enqueue(queue)["ID"], *ENDS) == "completed"
    peer.call("pause", LOW)
    assert peer.queue_info(LOW)["Paused"]

    waiting: list[str] = []
    with stage.redis.pubsub() as announced:
        announced.subscribe(f"__keyspace@0__:{keys.queue_keys(LOW).active}", "the end")
        for _ in range(3):
            waiting.append(peer.enqueue(LOW)["ID"])
            assert stage.until_state(HIGH, peer.enqueue(HIGH)["ID"], *ENDS) == "completed"
            assert stage.ids(LOW, "pending") == waiting[::-1]
        stage.redis.publish("the end", "")
        heard = list(takewhile(lambda message: message["data"] != b"", announced.listen()))
    # Not even for a moment was an id in active, where a crash would have left it.
    assert [message for message in heard if message["type"] == "message"] == []
    assert peer.ids(LOW, "pending") == waiting  # the next one first
    info = peer.queue_info(LOW)
    assert (info["Pending"], info["Active"], info["ProcessedTotal"]) == (3, 0, 1)

    peer.call("unpause", LOW)
    for task_id in waiting:
        assert stage.until_state(LOW, task_id, *ENDS) == "completed"


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_cancelling_a_running_task_fails_it_and_no_other(stage: Stage, peer: Peer, tmp_path: Path, mode: str) -> None:
    stage.queue("inference", mode=mode)
    stage.agent(concurrency=2).wait_running()
    until(lambda: dict(stage.redis.pubsub_numsub("asynq:cancel")).get(b"asynq:cancel"), "the worker listens")
    hanging = peer.enqueue(QUEUE, {"wait_for": str(tmp_path / "never")}, max_retry=3)["ID"]
    other = peer.enqueue(QUEUE, {"n": 1})["ID"]
    stage.until_state(QUEUE, hanging, "active")
    peer.call("cancel", "nobody's task")
    peer.call("cancel", hanging)
    assert stage.until_state(QUEUE, hanging, *ENDS) == "retry"
    found = peer.task(QUEUE, hanging)
    assert found["LastErr"].startswith("context canceled")
    assert found["Retried"] == 1
    assert stage.until_state(QUEUE, other, *ENDS) == "completed"
    assert peer.task(QUEUE, other)["Retried"] == 0


def test_an_archived_task_runs_again_when_the_inspector_says_so(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    start_agent(stage, peer)
    needs = tmp_path / "needs"
    task_id = peer.enqueue(QUEUE, {"needs": str(needs)}, max_retry=0, retention="1h")["ID"]
    assert stage.until_state(QUEUE, task_id, *ENDS) == "archived"
    needs.touch()
    peer.call("run", QUEUE, task_id)
    stage.until_state(QUEUE, task_id, "completed")
    assert json.loads(peer.task(QUEUE, task_id)["Result"])["by"] == "agent"
    assert peer.ids(QUEUE, "archived") == []
    assert peer.totals(QUEUE) == (2, 1)


def test_a_task_is_deleted_unless_it_is_running(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    start_agent(stage, peer)
    gate = tmp_path / "gate"
    failed = peer.enqueue(QUEUE, {"needs": str(tmp_path / "never")})["ID"]
    running = peer.enqueue(QUEUE, {"wait_for": str(gate)})["ID"]
    pending = peer.enqueue(QUEUE)["ID"]
    stage.until_state(QUEUE, running, "active")
    with pytest.raises(PeerError, match="active"):
        peer.call("delete", QUEUE, running)
    for task_id in (failed, pending):
        peer.call("delete", QUEUE, task_id)
        with pytest.raises(PeerError, match="ErrTaskNotFound"):
            peer.task(QUEUE, task_id)
    gate.touch()
    assert stage.until_state(QUEUE, running, *ENDS) == "completed"
    assert {task_id for _, task_id in peer.begun()} == {failed, running}
    info = peer.queue_info(QUEUE)
    assert (info["Archived"], info["Pending"], info["Active"], info["Completed"]) == (0, 0, 0, 1)
