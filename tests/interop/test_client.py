"""Tasks from asynq's client, with each of its options: how our worker runs them, and what the Inspector reads."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from interop.peer import PeerError, start_agent
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from interop.peer import Peer
    from stage import Stage

QUEUE = "inference.default"
ENDS = ("completed", "archived", "retry")


def test_a_task_succeeds_with_the_sdk_and_the_inspector_reads_its_result(stage: Stage, peer: Peer) -> None:
    stage.queue("inference")
    stage.agent().wait_running()
    before = int(time.time())
    options = {"type": "predict", "id": "mine", "max_retry": 7, "timeout": "10m", "retention": "1h"}
    sent = peer.enqueue(QUEUE, {"n": 1}, **options)
    assert (sent["ID"], sent["State"]) == ("mine", "pending")
    with pytest.raises(PeerError, match="ErrTaskIDConflict"):
        peer.enqueue(QUEUE, {"n": 2}, id="mine")
    assert stage.until_state(QUEUE, "mine", *ENDS) == "completed"
    found = peer.task(QUEUE, "mine")
    assert json.loads(found["Result"])["echo"] == {"n": 1}
    assert before <= found["CompletedAt"] <= time.time()
    assert found["NextProcessAt"] == 0
    expected = {"Queue": QUEUE, "Type": "predict", "MaxRetry": 7, "Timeout": 600, "Retention": 3600}
    expected |= {"State": "completed", "Retried": 0, "LastErr": "", "LastFailedAt": 0, "Payload": '{"n": 1}'}
    assert {name: found[name] for name in expected} == expected
    # Retention is how long the Inspector can find it from now on.
    kept = stage.redis.zscore(keys.queue_keys(QUEUE).completed, "mine")
    assert kept == found["CompletedAt"] + 3600


def test_an_exception_archives_its_task_with_the_traceback_as_last_error(stage: Stage, peer: Peer) -> None:
    stage.queue("inference")
    stage.agent().wait_running()
    task_id = peer.enqueue(QUEUE, {"fail": "no such model"}, max_retry=5)["ID"]
    assert stage.until_state(QUEUE, task_id, *ENDS) == "archived"
    found = peer.task(QUEUE, task_id)
    assert "ValueError: no such model" in found["LastErr"]
    assert abs(found["LastFailedAt"] - time.time()) < 60
    assert peer.ids(QUEUE, "archived") == [task_id]


def test_headers_reach_the_process_with_all_the_rest(stage: Stage, peer: Peer) -> None:
    start_agent(stage, peer)
    headers = {"trace": "00-ab-01", "tenant": "füü = bär"}
    task_id = peer.enqueue(QUEUE, {"n": 1}, type="email:send", max_retry=2, headers=headers)["ID"]
    assert stage.until_state(QUEUE, task_id, *ENDS) == "completed"
    found = peer.task(QUEUE, task_id)
    assert found["Headers"] == headers
    assert json.loads(found["Result"])["line"] == {
        "task_id": task_id,
        "type": "email:send",
        "payload": {"n": 1},
        "retry_count": 0,
        "max_retry": 2,
        "queue": QUEUE,
        "headers": headers,
    }


@pytest.mark.parametrize("option", ["timeout", "deadline"])
def test_a_task_past_its_time_is_retried_by_asynqs_rule_with_the_reason(
    stage: Stage, peer: Peer, tmp_path: Path, option: str
) -> None:
    start_agent(stage, peer)
    limit = "1s" if option == "timeout" else int(time.time()) + 2
    sent = peer.enqueue(QUEUE, {"wait_for": str(tmp_path / "never")}, max_retry=2, **{option: limit})
    assert stage.until_state(QUEUE, sent["ID"], *ENDS) == "retry"
    found = peer.task(QUEUE, sent["ID"])
    assert found["LastErr"].startswith("context deadline exceeded")
    assert (found["Timeout"], found["Deadline"]) == ((1, 0) if option == "timeout" else (0, limit))
    assert (found["Retried"], found["MaxRetry"]) == (1, 2)
    assert 15 <= found["NextProcessAt"] - found["LastFailedAt"] <= 15 + 29  # no retries before: 0⁴ + 15 + random(0..29)
    assert peer.ids(QUEUE, "retry") == [sent["ID"]]
    assert peer.totals(QUEUE) == (1, 1)


def test_a_task_without_retries_left_is_archived(stage: Stage, peer: Peer, tmp_path: Path) -> None:
    start_agent(stage, peer)
    wishes = {"needs": str(tmp_path / "never"), "retry": True}
    once, never_again = (peer.enqueue(QUEUE, wishes, max_retry=retries)["ID"] for retries in (1, 0))
    assert stage.until_state(QUEUE, never_again, *ENDS) == "archived"
    assert stage.until_state(QUEUE, once, *ENDS) == "retry"
    peer.call("run", QUEUE, once)
    stage.until_state(QUEUE, once, "archived", "completed")
    found = peer.task(QUEUE, once)
    assert (found["State"], found["Retried"], found["LastErr"]) == ("archived", 1, "something is missing")
    assert peer.totals(QUEUE) == (3, 3)


@pytest.mark.parametrize("kept", [True, False])
def test_a_unique_task_has_no_double_until_it_has_succeeded(
    stage: Stage, peer: Peer, tmp_path: Path, kept: bool
) -> None:
    gate = tmp_path / "gate"

    def enqueue() -> str:
        retention = "1h" if kept else "0s"
        task_id: str = peer.enqueue(QUEUE, {"wait_for": str(gate)}, unique="1h", retention=retention)["ID"]
        return task_id

    def succeed(task_id: str) -> None:
        until(lambda: stage.state(QUEUE, task_id) not in {"pending", "active"}, "the task has ended")
        assert stage.state(QUEUE, task_id) == ("completed" if kept else "")

    first = enqueue()
    with pytest.raises(PeerError, match="ErrDuplicateTask"):
        enqueue()
    start_agent(stage, peer, store_results=False)
    stage.until_state(QUEUE, first, "active")
    with pytest.raises(PeerError, match="ErrDuplicateTask"):
        enqueue()
    gate.touch()
    succeed(first)
    second = enqueue()
    succeed(second)
    assert peer.begun() == [("agent", first), ("agent", second)]
    assert peer.totals(QUEUE) == (2, 0)


def test_a_unique_task_has_no_double_while_it_is_to_be_retried_or_archived(
    stage: Stage, peer: Peer, tmp_path: Path
) -> None:
    start_agent(stage, peer)
    wishes = {"needs": str(tmp_path / "never"), "retry": True}
    first = peer.enqueue(QUEUE, wishes, unique="1h", max_retry=1)["ID"]
    for state in ("retry", "archived"):
        stage.until_state(QUEUE, first, state)
        with pytest.raises(PeerError, match="ErrDuplicateTask"):
            peer.enqueue(QUEUE, wishes, unique="1h")
        if state == "retry":
            peer.call("run", QUEUE, first)
    peer.call("delete", QUEUE, first)
    with pytest.raises(PeerError, match="ErrTaskNotFound"):
        peer.task(QUEUE, first)
    peer.enqueue(QUEUE, wishes, unique="1h")


def test_a_scheduled_task_runs_when_it_is_due_or_when_the_inspector_says_so(stage: Stage, peer: Peer) -> None:
    start_agent(stage, peer)
    due = int(time.time()) + 2
    at, soon = peer.enqueue(QUEUE, process_at=due), peer.enqueue(QUEUE, process_in="2s")
    later = peer.enqueue(QUEUE, process_in="1h")["ID"]
    assert (at["State"], at["NextProcessAt"]) == ("scheduled", due)
    assert soon["State"] == "scheduled"
    for sent in (at, soon):
        assert stage.until_state(QUEUE, sent["ID"], *ENDS) == "completed"
        assert peer.task(QUEUE, sent["ID"])["CompletedAt"] >= sent["NextProcessAt"]
    assert peer.ids(QUEUE, "scheduled") == [later]
    assert 3000 < peer.task(QUEUE, later)["NextProcessAt"] - time.time() <= 3600
    peer.call("run", QUEUE, later)
    assert stage.until_state(QUEUE, later, *ENDS) == "completed"


def test_a_task_of_a_group_waits_with_its_group_and_returns_there_to_be_retried(
    stage: Stage, peer: Peer, tmp_path: Path
) -> None:
    start_agent(stage, peer)
    wishes = {"needs": str(tmp_path / "never"), "retry": True}
    grouped = peer.enqueue(QUEUE, wishes, group="mails", max_retry=3)["ID"]
    other = peer.enqueue(QUEUE)["ID"]
    assert stage.until_state(QUEUE, other, *ENDS) == "completed"
    assert [task["ID"] for task in peer.call("group", QUEUE, "mails")] == [grouped]  # the worker has left it alone
    peer.call("run", QUEUE, grouped)
    stage.until_state(QUEUE, grouped, "retry")
    stage.redis.zadd(keys.queue_keys(QUEUE).retry, {grouped: time.time() - 1})
    stage.until_state(QUEUE, grouped, "aggregating")
    (found,) = peer.call("group", QUEUE, "mails")
    assert (found["ID"], found["Group"], found["State"], found["Retried"]) == (grouped, "mails", "aggregating", 1)


def test_a_scheduled_task_of_a_group_runs_as_with_asynqs_own_server(stage: Stage, peer: Peer) -> None:
    """asynq 0.26 does not note the group where its forwarder looks for it, so that such a task becomes pending."""
    ours = peer.enqueue(QUEUE, group="mails", process_in="1s")
    assert (ours["State"], ours["Group"]) == ("scheduled", "mails")
    agent = start_agent(stage, peer)
    assert stage.until_state(QUEUE, ours["ID"], *ENDS, "aggregating") == "completed"
    assert agent.terminate() == 0
    theirs = peer.enqueue(QUEUE, group="mails", process_in="1s", retention="1h")
    peer.server(QUEUE)
    assert stage.until_state(QUEUE, theirs["ID"], *ENDS, "aggregating") == "completed"
    assert [by for by, _ in peer.begun()] == ["agent", "asynq"]
