"""A real asynq server and our worker on the same queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from interop.peer import let_lease_end, lose, start_agent, until_seen
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from interop.peer import Peer
    from stage import Stage

QUEUE = "inference.default"
LEASE_EXPIRED = "asynq: task lease expired"


def enqueue_two(peer: Peer, gate: Path) -> tuple[str, str]:
    """A task that may be retried, and one that may not."""
    wishes = {"wait_for": str(gate)}
    again, last = (peer.enqueue(QUEUE, wishes, max_retry=retries, retention="1h")["ID"] for retries in (3, 0))
    return again, last


def assert_recovered(stage: Stage, peer: Peer, again: str, last: str, by: str) -> None:
    """The survivor has found both, and runs the one again that may be retried."""
    stage.until_state(QUEUE, again, "retry")
    stage.until_state(QUEUE, last, "archived")
    for task_id, retried in ((again, 1), (last, 0)):
        found = peer.task(QUEUE, task_id)
        assert (found["LastErr"], found["Retried"]) == (LEASE_EXPIRED, retried)
        assert found["LastFailedAt"] > 0
    peer.call("run", QUEUE, again)
    stage.until_state(QUEUE, again, "completed")
    assert json.loads(peer.task(QUEUE, again)["Result"])["by"] == by
    for part in ("pending", "active", "lease"):
        assert stage.ids(QUEUE, part) == [], part
    assert peer.totals(QUEUE) == (3, 2)


def test_an_asynq_server_recovers_the_tasks_of_a_lost_worker(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    agent = start_agent(stage, peer, concurrency=2)
    again, last = enqueue_two(peer, gate)
    until(lambda: len(stage.ids(QUEUE, "lease")) == 2, "both tasks are taken")
    until(peer.begun, "one is running")
    lose(agent)
    gate.touch()
    let_lease_end(stage, QUEUE, again, last)
    assert all(task["IsOrphaned"] for task in peer.call("tasks", QUEUE, "active"))
    peer.server(QUEUE)
    assert_recovered(stage, peer, again, last, by="asynq")


def test_our_worker_recovers_the_tasks_of_a_lost_asynq_server(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = peer.server(QUEUE, concurrency=2)
    again, last = enqueue_two(peer, gate)
    until(lambda: len(peer.begun()) == 2, "both tasks are running")
    server.kill()
    gate.touch()
    let_lease_end(stage, QUEUE, again, last)
    start_agent(stage, peer)
    assert_recovered(stage, peer, again, last, by="agent")


def test_beside_an_asynq_server_every_task_runs_once_and_the_counters_agree(
    stage: Stage, peer: Peer, tmp_path: Path
) -> None:
    tasks, concurrency = 500, 4
    gate = tmp_path / "gate"
    server = peer.server(QUEUE, concurrency)
    agent = start_agent(stage, peer, concurrency=concurrency)
    wishes = {"wait_for": str(gate)}
    sent = peer.enqueue_all(QUEUE, wishes, count=tasks, retention="1h")
    # All that both can hold: so each has its share.
    until(lambda: len(stage.ids(QUEUE, "lease")) == 2 * concurrency, "both are busy")

    def both_busy() -> Any:
        return {server["PID"]: len(server["ActiveWorkers"]) for server in peer.servers()} == {
            agent.pid: concurrency,
            server.pid: concurrency,
        }

    until_seen(both_busy, "the Inspector lists the tasks of both")
    gate.touch()
    until(lambda: len(stage.ids(QUEUE, "completed")) == tasks, "every task is completed")

    ids = [task["ID"] for task in sent]
    begun = peer.begun()
    assert sorted(task_id for _, task_id in begun) == sorted(ids)
    for by in ("agent", "asynq"):
        assert len([name for name, _ in begun if name == by]) >= concurrency
    found = peer.call("tasks", QUEUE, "completed")
    assert sorted(task["ID"] for task in found) == sorted(ids)
    assert {task["ID"]: json.loads(task["Result"])["by"] for task in found} == {task_id: by for by, task_id in begun}
    info = peer.queue_info(QUEUE)
    assert (info["ProcessedTotal"], info["FailedTotal"], info["Completed"]) == (tasks, 0, tasks)
    assert info["Size"] == tasks
    assert peer.totals(QUEUE) == (tasks, 0)
    assert server.terminate() == 0
    assert agent.terminate() == 0
    assert peer.servers() == []
