"""A task whose numbers nobody sane would write harms nobody: it ends, and so do those that are written with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from stage import Stage

QUEUE = "inference.default"
AUTHOR = """
import json, sys

print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    print(json.dumps({"task_id": json.loads(line)["task_id"], "result": 1}), flush=True)
"""
LARGEST = 2**63 - 1
HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("options", "stamp"),
    [({"retention": LARGEST}, {}), ({}, {"ttl_completed": LARGEST}), ({"retention": -LARGEST}, {})],
    ids=["retention", "stamped ttl", "negative retention"],
)
def test_a_task_that_is_to_be_kept_beyond_all_times_is_written_and_so_are_its_neighbours(
    stage: Stage, options: dict[str, int], stamp: dict[str, int]
) -> None:
    stage.queue("inference", {"main.py": AUTHOR, "requirements.txt": "# nothing\n"})
    hostile = stage.client.enqueue(QUEUE, b"{}", **options)
    for name, value in stamp.items():
        stage.redis.hset(keys.queue_keys(QUEUE).task_prefix + hostile, name, str(value))
    innocent = [stage.client.enqueue(QUEUE, b"{}") for _ in range(5)]
    agent = stage.agent(concurrency=10).wait_running()
    for task in (hostile, *innocent):
        stage.until_state(QUEUE, task, "completed")
    until(lambda: stage.number(QUEUE, "processed") == 6, "all six are counted")
    assert stage.ids(QUEUE, "active") == []
    assert agent.terminate() == 0
    assert [line for line in agent.log().splitlines() if " WARNING " in line or " ERROR " in line] == []


@pytest.mark.parametrize(
    "stamp",
    [
        {"active_timeout": HUGE},
        {"pending_since": HUGE},
        {"active_timeout": "1" + "0" * 30},
        {"pending_timeout": "nan", "ttl_archived": "-inf", "ttl_completed": "1e400"},
    ],
    ids=["active_timeout", "pending_since", "beyond all times", "no numbers"],
)
def test_a_number_that_nothing_can_hold_ends_no_worker(stage: Stage, stamp: dict[str, str]) -> None:
    stage.queue("inference", {"main.py": AUTHOR, "requirements.txt": "# nothing\n"})
    hostile = stage.client.enqueue(QUEUE, b"{}")
    for name, value in stamp.items():
        stage.redis.hset(keys.queue_keys(QUEUE).task_prefix + hostile, name, value)
    innocent = [stage.client.enqueue(QUEUE, b"{}") for _ in range(5)]
    agent = stage.agent(concurrency=3).wait_running()
    for task in (hostile, *innocent):
        stage.until_state(QUEUE, task, "completed")
    assert agent.process.poll() is None
    assert agent.terminate() == 0


@pytest.mark.parametrize("priority", [2**31, 2**63 - 1])
def test_a_priority_that_no_record_can_hold_ends_no_worker(stage: Stage, priority: int) -> None:
    code = {"main.py": AUTHOR, "requirements.txt": "# nothing\n"}
    stage.queue("inference", code, sub_queues={QUEUE: priority, "inference.low": 1})
    agent = stage.agent().wait_running()
    for queue in (QUEUE, "inference.low"):
        stage.until_state(queue, stage.client.enqueue(queue, b"{}"), "completed")
    assert agent.record()["queues"] == f"map[{QUEUE}:{2**31 - 1} inference.low:1]"
    assert agent.terminate() == 0
