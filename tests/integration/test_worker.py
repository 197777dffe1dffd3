"""A worker end to end: real Redis, real Git over file://, a real virtualenv, the SDK from PyPI."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any

from deployment_kit import make_wheel, spy_on
from package_index import package_index
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Stage

SUBS = {"inference.high": 9, "inference.low": 3}
SILENT_ECHO = """
import json, sys
import tinypkg
print('{"status": "ready"}', flush=True)
for line in sys.stdin:
    print(json.dumps({"task_id": json.loads(line)["task_id"], "result": 1}), flush=True)
"""


def result(stage: Stage, queue: str, task_id: str) -> Any:
    info = stage.client.info(queue, task_id)
    assert info is not None
    assert info.result is not None
    return json.loads(info.result)


def error(stage: Stage, queue: str, task_id: str) -> str:
    info = stage.client.info(queue, task_id)
    assert info is not None
    return info.message.error_msg


def test_tasks_of_several_sub_queues_succeed_with_their_results(stage: Stage) -> None:
    stage.queue("inference", sub_queues=SUBS)
    stage.agent(concurrency=4)
    high = stage.client.enqueue("inference.high", b'{"n": 1}')
    low = stage.client.enqueue("inference.low", b'{"n": 2}')
    for queue, task_id, number in (("inference.high", high, 1), ("inference.low", low, 2)):
        assert stage.until_state(queue, task_id, "completed", "archived") == "completed"
        found = result(stage, queue, task_id)
        assert found["echo"] == {"n": number}
        by_id: Any = stage.redis.get(f"asynq:result:{task_id}")
        assert json.loads(by_id) == found
        assert stage.number(queue, "processed") == 1
        assert stage.number(queue, "failed") == 0


def test_payloads_arrive_as_json_text_or_base64(stage: Stage) -> None:
    stage.queue("inference")
    stage.agent(concurrency=4)
    sent: dict[bytes, dict[str, Any]] = {
        b'{"b": 1.50, "a": [1,\n 2]}': {"echo": {"b": 1.5, "a": [1, 2]}},
        b"[1, 2, 3]": {"got": [1, 2, 3]},
        "plain text, füü".encode(): {"got": "plain text, füü"},
        b"": {"got": ""},
        b"\xff\xfe\x00": {"got": base64.b64encode(b"\xff\xfe\x00").decode()},
    }
    ids = {payload: stage.client.enqueue("inference.default", payload) for payload in sent}
    for payload, expected in sent.items():
        stage.until_state("inference.default", ids[payload], "completed", "archived")
        found = result(stage, "inference.default", ids[payload])
        assert {name: found[name] for name in expected} == expected


def test_without_redis_storage_the_state_is_kept_and_no_result(stage: Stage) -> None:
    stage.queue("inference", redis_storage=False)
    stage.agent()
    kept = stage.client.enqueue("inference.default", b"{}")
    gone = stage.client.enqueue("inference.default", b"{}", retention=0)
    stage.until_state("inference.default", kept, "completed")
    until(lambda: stage.state("inference.default", gone) == "", "the task without retention is gone")
    info = stage.client.info("inference.default", kept)
    assert info is not None
    assert info.result is None
    assert info.message.completed_at > 0
    assert not stage.redis.exists(f"asynq:result:{kept}")


def test_an_error_without_retry_is_archived_at_once_with_its_traceback(stage: Stage) -> None:
    stage.queue("inference")
    stage.agent()
    task_id = stage.client.enqueue("inference.default", b'{"fail": "no such model"}', max_retry=5)
    stage.until_state("inference.default", task_id, "archived", "retry", "completed")
    assert stage.state("inference.default", task_id) == "archived"
    assert "ValueError: no such model" in error(stage, "inference.default", task_id)
    assert stage.number("inference.default", "failed") == 1


def test_an_error_with_retry_is_tried_again_by_asynqs_rule_and_archived_when_retries_are_used_up(stage: Stage) -> None:
    stage.queue("inference")
    stage.agent()
    queue = "inference.default"
    before = time.time()
    task_id = stage.client.enqueue(queue, b'{"retry": "busy"}', max_retry=1)
    stage.until_state(queue, task_id, "retry")
    assert stage.ids(queue, "retry") == [task_id]
    due: Any = stage.redis.zscore(keys.queue_keys(queue).retry, task_id)
    assert before + 14 <= due <= time.time() + 45  # 0⁴ + 15 + random(0..29)·1
    stage.redis.zadd(keys.queue_keys(queue).retry, {task_id: time.time() - 1})  # the forwarder finds it due
    stage.until_state(queue, task_id, "archived")
    info = stage.client.info(queue, task_id)
    assert info is not None
    assert (info.message.error_msg, info.message.retried, info.message.retry) == ("busy", 1, 1)
    assert (stage.number(queue, "processed"), stage.number(queue, "failed")) == (2, 2)


def test_one_shot_runs_every_task_in_a_process_of_its_own(stage: Stage) -> None:
    stage.queue("inference", mode="one_shot")
    stage.agent(concurrency=2)
    ids = [stage.client.enqueue("inference.default", b'{"n": %d}' % number) for number in range(6)]
    failing = stage.client.enqueue("inference.default", b'{"fail": "bad"}')
    dying = stage.client.enqueue("inference.default", b'{"die": 7}')
    for task_id in ids:
        assert stage.until_state("inference.default", task_id, "completed", "archived", "retry") == "completed"
    assert len({result(stage, "inference.default", task_id)["pid"] for task_id in ids}) == len(ids)
    assert stage.until_state("inference.default", failing, "archived", "retry") == "archived"
    assert stage.until_state("inference.default", dying, "archived", "retry") == "retry"
    assert "exited with code 7" in error(stage, "inference.default", dying)
    assert "about to die" in error(stage, "inference.default", dying)


def test_sigterm_lets_running_tasks_finish_and_puts_the_rest_back_at_the_head(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = stage.agent(concurrency=3, shutdown_timeout="3s").wait_running()
    queue, gate = "inference.default", tmp_path / "gate"
    payload = json.dumps({"wait_for": str(gate)}).encode()
    first = stage.client.enqueue(queue, payload)
    stuck = stage.client.enqueue(queue, json.dumps({"wait_for": str(tmp_path / "never")}).encode())
    ahead = stage.client.enqueue(queue, b'{"n": 3}')
    until(lambda: sorted(stage.ids(queue, "active")) == sorted([first, stuck, ahead]), "three tasks are taken")
    waiting = [stage.client.enqueue(queue, b'{"n": %d}' % number) for number in range(2)]
    agent.process.terminate()
    until(lambda: agent.record().get("status") == "draining", "the worker says that it drains")
    gate.touch()
    assert agent.wait() == 0
    assert stage.state(queue, first) == "completed"
    # Left to right is last to first: the oldest unfinished task is the next to be taken.
    assert stage.ids(queue, "pending") == [waiting[1], waiting[0], ahead, stuck]
    assert stage.ids(queue, "active") == []
    assert stage.ids(queue, "lease") == []
    for task_id in (stuck, ahead):
        info = stage.client.info(queue, task_id)
        assert info is not None
        assert (info.state, info.message.retried, info.message.error_msg) == ("pending", 0, "")
        assert stage.redis.hexists(keys.queue_keys(queue).task(task_id), "pending_since")
    assert (stage.number(queue, "processed"), stage.number(queue, "failed")) == (1, 0)
    assert_deregistered(stage)


def assert_deregistered(stage: Stage) -> None:
    assert list(stage.redis.scan_iter("asynq:workers:*")) == []
    assert list(stage.redis.scan_iter("asynq:servers:*")) == []
    assert list(stage.redis.scan_iter("asynq:active-workers:*")) == []
    assert stage.redis.zrange(keys.WORKERS, 0, -1) == []
    assert stage.redis.zrange(keys.SERVERS, 0, -1) == []


def test_a_second_signal_does_not_wait_and_still_puts_everything_back(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = stage.agent(concurrency=1, shutdown_timeout="10m").wait_running()
    task_id = stage.client.enqueue("inference.default", json.dumps({"wait_for": str(tmp_path / "never")}).encode())
    until(lambda: stage.state("inference.default", task_id) == "active", "the task is taken")
    agent.process.terminate()
    until(lambda: agent.record().get("status") == "draining", "the worker says that it drains")
    assert agent.terminate() == 0
    assert stage.ids("inference.default", "pending") == [task_id]
    assert_deregistered(stage)


def test_an_idle_worker_stops_without_waiting_for_its_time_to_drain(stage: Stage) -> None:
    stage.queue("inference", sub_queues=SUBS)
    agent = stage.agent(shutdown_timeout="10h").wait_running()
    assert agent.terminate() == 0
    assert_deregistered(stage)


def test_a_restart_with_nothing_new_starts_no_build_and_asks_no_package_index(stage: Stage, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "tinypkg")
    python, asked = spy_on("python3", tmp_path / "spy")
    with package_index(wheels) as index:
        environment = {"RUNQY_PYTHON": str(python / "python3"), "PIP_INDEX_URL": index.url, "UV_INDEX_URL": index.url}
        environment |= {"UV_DEFAULT_INDEX": index.url, "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
        stage.queue("inference", {"main.py": SILENT_ECHO, "requirements.txt": "tinypkg\n"})
        first = stage.agent(environment=environment).wait_running()
        assert first.terminate() == 0
        assert "building the environment" in first.log()
        assert index.requests
        index.requests.clear()
        asked.write_text("")
        second = stage.agent(environment=environment).wait_running()
        assert second.terminate() == 0
    assert "building the environment" not in second.log()
    assert index.requests == []
    assert re.findall(r"^-.*", asked.read_text(), re.MULTILINE) == ["-I -c import sys"]  # what version it is


def test_two_workers_share_a_queue(stage: Stage) -> None:
    stage.queue("inference")
    agents = [stage.agent(concurrency=1), stage.agent(concurrency=1)]
    for agent in agents:
        agent.wait_running()
    ids = [stage.client.enqueue("inference.default", b'{"sleep": 0.02}') for _ in range(20)]
    for task_id in ids:
        assert stage.until_state("inference.default", task_id, "completed", "archived", "retry") == "completed"
    pids = {result(stage, "inference.default", task_id)["pid"] for task_id in ids}
    assert len(pids) == 2
    assert stage.number("inference.default", "processed") == len(ids)
    assert len(list(stage.redis.scan_iter("asynq:workers:*", _type="HASH"))) == len(agents)


def test_tasks_of_the_same_id_in_two_sub_queues_both_run(stage: Stage) -> None:
    stage.queue("inference", sub_queues=SUBS)
    stage.agent(concurrency=4).wait_running()
    for queue, number in (("inference.high", 1), ("inference.low", 2)):
        stage.client.enqueue(queue, b'{"n": %d, "sleep": 0.05}' % number, task_id="same")
    for queue, number in (("inference.high", 1), ("inference.low", 2)):
        assert stage.until_state(queue, "same", "completed", "archived", "retry") == "completed"
        assert result(stage, queue, "same")["echo"]["n"] == number


def test_two_parent_queues_each_have_their_own_process(stage: Stage) -> None:
    stage.queue("inference", sub_queues=SUBS)
    stage.queue("simple", mode="one_shot")
    stage.agent("inference.high,simple", concurrency=2).wait_running()
    first = stage.client.enqueue("inference.high", b'{"n": 1}')
    second = stage.client.enqueue("simple.default", b'{"n": 2}')
    assert stage.until_state("inference.high", first, "completed", "archived") == "completed"
    assert stage.until_state("simple.default", second, "completed", "archived") == "completed"
    assert [request["queue"] for request in stage.server.requests] == ["inference", "simple"]
    ignored = stage.client.enqueue("inference.low", b"{}")
    assert stage.state("inference.low", ignored) == "pending"


def test_the_record_for_the_runqy_server_says_what_the_worker_is(stage: Stage) -> None:
    stage.queue("inference", sub_queues=SUBS)
    agent = stage.agent(concurrency=3).wait_running()
    record = agent.record()
    assert record["queues"] == "map[inference.high:9 inference.low:3]"
    assert record["concurrency"] == "3"
    assert record["healthy"] == "true"
    assert abs(int(record["last_beat"]) - time.time()) < 30
    assert int(record["started_at"]) <= int(record["last_beat"])
    assert json.loads(record["recovery"]) == {
        "inference": {"state": "ready", "consecutive_fails": 0, "total_restarts": 0}
    }
    metrics = json.loads(record["metrics"])
    assert {"cpu_percent", "memory_used_bytes", "memory_total_bytes", "gpus", "collected_at"} <= set(metrics)
    hashes = list(stage.redis.scan_iter("asynq:workers:*", _type="HASH"))
    assert len(hashes) == 1


def test_no_secret_reaches_the_log_or_the_process(stage: Stage) -> None:
    secret = "vault-value-5678"
    show = (
        "import os, sys, json\nprint(json.dumps({'status': 'ready'}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    task = json.loads(line)\n"
        "    print('the vault says', os.environ['MODEL_TOKEN'], file=sys.stderr, flush=True)\n"
        "    print(json.dumps({'task_id': task['task_id'], 'result': dict(os.environ), 'error': None}), flush=True)\n"
    )
    stage.queue("inference", {"main.py": show}, env_vars={"MODEL_PATH": "/models/gpt"})
    stage.server.queues["inference"].vaults = {"MODEL_TOKEN": secret, "LD_PRELOAD": "/tmp/evil.so"}  # noqa: S108
    agent = stage.agent(log_level="debug").wait_running()
    task_id = stage.client.enqueue("inference.default", b"{}")
    stage.until_state("inference.default", task_id, "completed")
    environment = result(stage, "inference.default", task_id)
    assert environment["MODEL_PATH"] == "/models/gpt"
    assert environment["MODEL_TOKEN"] == secret
    assert "LD_PRELOAD" not in environment
    assert not [name for name in environment if name.startswith("RUNQY_")]
    agent.terminate()
    log = agent.log()
    assert "the vault says ***" in log
    assert secret not in log
    assert "stage-api-key-1234" not in log
    assert "LD_PRELOAD" in log  # named as refused
