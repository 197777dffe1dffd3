"""What harms one task harms no other, and no crash loses any."""

from __future__ import annotations

import asyncio
import json
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from recorder import COUNTING
from runqy_agent.broker import keys
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.settle import Policy
from runqy_agent.demo.client import message
from runqy_agent.demo.redis_server import RedisServer
from runqy_agent.loops.recoverer import Recoverer
from set_clock import SetClock
from stage import Stage, until

if TYPE_CHECKING:
    from pathlib import Path

QUEUE = "inference.default"


async def recover(redis_server: RedisServer, ahead: float) -> None:
    """What another worker's recoverer does, by a clock that is ahead, so that no test waits for leases to end."""
    client = open_client(RedisAddress("127.0.0.1", redis_server.port))
    clock = SetClock(time.time() + ahead)
    broker = Broker(client, clock)
    await Recoverer(broker, clock, {QUEUE: Policy(retry_delay=lambda *_: 0.0)}).round()
    await broker.forward(QUEUE)
    await client.aclose()


def test_a_worker_killed_at_any_instant_loses_nothing(stage: Stage, redis_server: RedisServer, tmp_path: Path) -> None:
    chance = random.Random(1)
    tasks, kills, concurrency = 500, 12, 10
    runs = tmp_path / "runs"
    runs.touch()
    stage.queue("inference", {"main.py": COUNTING}, env_vars={"RUNS": str(runs)})
    ids = stage.client.enqueue_all([message(QUEUE, b"%d" % number, max_retry=50) for number in range(tasks)])

    def completed() -> int:
        return int(stage.redis.zcard(keys.queue_keys(QUEUE).completed))

    def reached(goal: int) -> bool:
        return completed() >= goal

    in_the_middle = 0
    for _ in range(kills):
        agent = stage.agent(concurrency=concurrency)
        # Each time somewhere between the start of the process and its share of the work.
        goal = completed() + chance.randrange(tasks // kills)
        until(partial(reached, goal), "some work is done")
        agent.kill()
        in_the_middle += bool(stage.ids(QUEUE, "active"))
        asyncio.run(recover(redis_server, ahead=61))
    assert in_the_middle >= kills // 2  # or this would prove nothing
    asyncio.run(recover(redis_server, ahead=61))  # adopted in the last round, if it was killed while claiming
    asyncio.run(recover(redis_server, ahead=122))
    last = stage.agent(concurrency=concurrency).wait_running()
    until(lambda: completed() == tasks, "every task is completed")
    assert last.terminate() == 0

    assert sorted(stage.ids(QUEUE, "completed")) == sorted(ids)
    for part in ("pending", "active", "lease", "scheduled", "retry", "archived"):
        assert stage.ids(QUEUE, part) == [], part
    counted = runs.read_text().split()
    assert set(counted) == set(ids)
    assert len(counted) - tasks <= kills * concurrency
    processed, failed = stage.number(QUEUE, "processed"), stage.number(QUEUE, "failed")
    infos = [stage.client.info(QUEUE, task_id) for task_id in ids]
    retried = sum(info.message.retried for info in infos if info is not None)
    assert (processed, failed) == (tasks + failed, retried)


def test_a_task_that_cannot_be_decoded_or_found_harms_no_other(stage: Stage) -> None:
    stage.queue("inference")
    names = keys.queue_keys(QUEUE)
    good = [stage.client.enqueue(QUEUE, b'{"n": 1}')]
    for task_id, fields in {
        "garbage": {"msg": b"\xff\xff\xff not protobuf", "state": "pending"},
        "no-message": {"state": "pending"},
        "other": {"msg": message(QUEUE, b"{}", task_id="somebody-else").SerializeToString(), "state": "pending"},
    }.items():
        stage.redis.hset(names.task(task_id), mapping=fields)  # type: ignore[arg-type]
        stage.redis.lpush(names.pending, task_id)
    stage.redis.lpush(names.pending, "no-hash", b"\xff\xfe-not-utf-8")
    stage.redis.set(names.task("wrong-type"), "a string")
    stage.redis.lpush(names.pending, "wrong-type")
    good.append(stage.client.enqueue(QUEUE, b'{"n": 2}'))
    agent = stage.agent(concurrency=3)
    for task_id in good:
        assert stage.until_state(QUEUE, task_id, "completed", "archived") == "completed"
    for task_id, reason in {
        "garbage": "is not a valid asynq message",
        "no-message": "no field msg",
        "other": "names the task 'somebody-else'",
    }.items():
        stage.until_state(QUEUE, task_id, "archived")
        info = stage.client.info(QUEUE, task_id)
        assert info is not None
        assert info.message.id == task_id
        assert reason in info.message.error_msg
    garbage = stage.client.info(QUEUE, "garbage")
    assert garbage is not None
    assert garbage.message.payload == b"\xff\xff\xff not protobuf"  # nothing of it is lost
    until(lambda: not stage.ids(QUEUE, "active"), "nothing is left in active")
    assert stage.ids(QUEUE, "pending") == []
    assert stage.ids(QUEUE, "lease") == []
    agent.terminate()
    assert "'no-hash'" in agent.log()


def test_an_answer_that_is_too_long_fails_its_task_alone(stage: Stage) -> None:
    stage.queue("inference")
    config = stage.directory / "config.yml"
    config.write_text("worker:\n  max_message_bytes: 65536\n", encoding="utf-8")
    stage.agent(concurrency=3, config_file=config)
    ids = [stage.client.enqueue(QUEUE, b'{"size": %d}' % size) for size in (1000, 1_000_000, 2000)]
    assert stage.until_state(QUEUE, ids[0], "completed", "archived") == "completed"
    assert stage.until_state(QUEUE, ids[1], "completed", "archived") == "archived"
    assert stage.until_state(QUEUE, ids[2], "completed", "archived") == "completed"
    info = stage.client.info(QUEUE, ids[1])
    assert info is not None
    assert "longer than worker.max_message_bytes (65536)" in info.message.error_msg


def test_a_crash_blames_the_task_that_was_running_and_returns_the_others(stage: Stage) -> None:
    stage.queue("inference")
    agent = stage.agent(concurrency=4, recovery_initial_delay="10ms").wait_running()
    stage.redis.set(keys.queue_keys(QUEUE).paused, 1)
    ids = stage.client.enqueue_all(
        [message(QUEUE, payload) for payload in (b'{"die": 3}', b'{"n": 1}', b'{"n": 2}', b'{"n": 3}')]
    )
    stage.redis.delete(keys.queue_keys(QUEUE).paused)
    stage.until_state(QUEUE, ids[0], "retry")
    for task_id in ids[1:]:
        assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"
        info = stage.client.info(QUEUE, task_id)
        assert info is not None
        assert info.message.retried == 0
    guilty = stage.client.info(QUEUE, ids[0])
    assert guilty is not None
    assert "exited with code 3" in guilty.message.error_msg
    assert "about to die" in guilty.message.error_msg
    assert stage.number(QUEUE, "failed") == 1
    recovered = {"inference": {"state": "ready", "consecutive_fails": 1, "total_restarts": 1}}
    until(lambda: json.loads(agent.record()["recovery"]) == recovered, "the record tells of the restart")
    assert agent.record()["healthy"] == "true"


def test_a_vault_value_that_a_crashing_process_prints_is_not_stored_with_the_error(stage: Stage) -> None:
    code = COUNTING.replace("    time.sleep(0.002)\n", "    sys.exit('the token is ' + os.environ['TOKEN'])\n")
    stage.queue("inference", {"main.py": code})
    stage.server.queues["inference"].vaults = {"TOKEN": "vault-value-5678"}
    stage.agent().wait_running()
    task_id = stage.client.enqueue(QUEUE, b"{}")
    stage.until_state(QUEUE, task_id, "retry")
    info = stage.client.info(QUEUE, task_id)
    assert info is not None
    assert "the token is ***" in info.message.error_msg
    assert "vault-value-5678" not in info.message.error_msg


def test_a_task_past_its_deadline_fails_and_the_process_is_restarted(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    stage.agent(concurrency=2).wait_running()
    payload = json.dumps({"wait_for": str(tmp_path / "never")}).encode()
    hanging = stage.client.enqueue(QUEUE, payload, timeout=1)
    behind = stage.client.enqueue(QUEUE, b'{"n": 1}')
    stage.until_state(QUEUE, hanging, "retry")
    info = stage.client.info(QUEUE, hanging)
    assert info is not None
    assert info.message.error_msg.startswith("context deadline exceeded")
    assert stage.until_state(QUEUE, behind, "completed", "archived") == "completed"
    behind_info: Any = stage.client.info(QUEUE, behind)
    assert behind_info.message.retried == 0


def test_redis_restarting_loses_nothing_and_the_worker_goes_on(tmp_path: Path, deployments: Path) -> None:
    server = RedisServer(arguments=["--appendonly", "yes", "--appendfsync", "always"])
    stage = Stage(tmp_path, deployments, server.client(), server.address)
    try:
        stage.queue("inference")
        agent = stage.agent(concurrency=4).wait_running()
        ids = stage.client.enqueue_all([message(QUEUE, b'{"sleep": 0.01}') for _ in range(100)])
        until(lambda: stage.number(QUEUE, "processed") > 10, "work is under way")
        server.stop()
        server.start()
        for task_id in ids:
            assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"
        assert agent.process.poll() is None
        late = stage.client.enqueue(QUEUE, b'{"n": 1}')
        assert stage.until_state(QUEUE, late, "completed", "archived") == "completed"
        assert agent.terminate() == 0
    finally:
        stage.close()
        server.close()
