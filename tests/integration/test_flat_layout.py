"""Whole workers in the flat layout. Every key and field stands here as runqy's own documentation shows it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ResponseError

from recorder import COUNTING
from runqy_agent import BrokerError, Worker, load_config
from runqy_agent.broker.connection import Clients, RedisAddress, open_client
from runqy_agent.broker.fallbacks import Fallbacks
from runqy_agent.broker.flat import FlatBroker, FlatDefaults
from runqy_agent.broker.opening import examine, open_broker
from runqy_agent.broker.settle import LEASE_EXPIRED, Policy
from runqy_agent.clock import Clock
from runqy_agent.config.settings import BootstrapSettings, Secret
from runqy_agent.errors import ConfigError, ExitCode
from runqy_agent.loops.recoverer import Recoverer
from set_clock import SetClock
from stage import Agent, Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from runqy_agent import Task
    from runqy_agent.demo.redis_server import RedisServer

QUEUE = "inference.default"


def enqueue(client: redis.Redis, task_id: str, payload: Any, queue: str = QUEUE, **fields: Any) -> str:
    task: Any = {"type": "task", "payload": json.dumps(payload), "retry": 0, "max_retry": 3, "queue": queue} | fields
    client.hset(f"asynq:t:{task_id}", mapping=task)
    client.lpush(f"asynq:{queue}:pending", task_id)
    return task_id


def task_hash(client: redis.Redis, task_id: str) -> dict[str, str]:
    found: Any = client.hgetall(f"asynq:t:{task_id}")
    return {name.decode(): value.decode() for name, value in found.items()}


def until_state(client: redis.Redis, task_id: str, *states: str) -> str:
    def reached() -> str:
        state = task_hash(client, task_id).get("state", "")
        return state if state in states else ""

    found: str = until(reached, f"task {task_id} is {' or '.join(states)}")
    return found


def scores(client: redis.Redis, part: str, queue: str = QUEUE) -> dict[str, float]:
    found: Any = client.zrange(f"asynq:{queue}:{part}", 0, -1, withscores=True)
    return {task_id.decode(): score for task_id, score in found}


def flat_agent(stage: Stage, **settings: Any) -> Agent:
    return stage.agent(redis_layout="flat", **settings)


async def recover(redis_server: RedisServer, ahead: float) -> None:
    """What another worker does, by a clock that is ahead, so that no test waits for leases or delays to end."""
    client = open_client(RedisAddress("127.0.0.1", redis_server.port))
    clock = SetClock(time.time() + ahead)
    broker = FlatBroker(client, clock, FlatDefaults())
    await Recoverer(broker, clock, {QUEUE: Policy(retry_delay=lambda *_: 0.0)}).round()
    await broker.forward(QUEUE)
    await client.aclose()


@pytest.mark.parametrize("separator", [".", ":"])
def test_tasks_written_as_documented_are_done_and_their_results_found(stage: Stage, separator: str) -> None:
    high, low = f"inference{separator}high", f"inference{separator}low"
    stage.queue("inference", sub_queues={high: 9, low: 3})
    agent = flat_agent(stage, concurrency=4).wait_running()
    enqueue(stage.redis, "test-1", {"input": "hello"}, high, trace="abc")
    enqueue(stage.redis, "test-2", [1, 2], low)
    for task_id in ("test-1", "test-2"):
        assert until_state(stage.redis, task_id, "completed", "archived", "retry") == "completed"
    done = task_hash(stage.redis, "test-1")
    by_id: Any = stage.redis.get("asynq:result:test-1")
    assert json.loads(by_id)["echo"] == {"input": "hello"}
    assert done["result"] == by_id.decode()
    assert int(done["completed_at"]) <= time.time()
    assert (done["trace"], done["payload"], done["retry"]) == ("abc", '{"input": "hello"}', "0")
    for queue in (high, low):
        assert stage.redis.get(f"asynq:{queue}:processed") == b"1"
        assert not stage.redis.exists(f"asynq:{queue}:active", f"asynq:{queue}:pending")
    kept = scores(stage.redis, "completed", high)["test-1"]
    assert abs(kept - time.time() - 24 * 3600) < 60
    day: Any = stage.redis.ttl("asynq:result:test-1")
    assert abs(day - 24 * 3600) < 60

    workers: Any = stage.redis.smembers("asynq:workers")
    (worker_id,) = workers
    record: Any = stage.redis.hgetall(b"asynq:workers:" + worker_id)
    assert {b"started", b"queues", b"concurrency", b"healthy"} <= record.keys()
    assert [key for key in stage.redis.scan_iter() if b"{" in key] == []
    assert agent.terminate() == 0
    assert list(stage.redis.scan_iter("asynq:workers*")) == []


def test_active_is_a_sorted_set_of_leases_while_a_task_runs(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    flat_agent(stage).wait_running()
    go = tmp_path / "go"
    enqueue(stage.redis, "a", {"wait_for": str(go)})
    until_state(stage.redis, "a", "active")
    assert stage.redis.type("asynq:inference.default:active") == b"zset"
    assert time.time() < scores(stage.redis, "active")["a"] < time.time() + 31
    go.touch()
    until_state(stage.redis, "a", "completed")
    assert scores(stage.redis, "active") == {}


def test_a_failure_is_counted_and_tried_again_until_max_retry(stage: Stage, redis_server: RedisServer) -> None:
    stage.queue("inference")
    flat_agent(stage).wait_running()
    enqueue(stage.redis, "a", {"retry": "busy"}, max_retry=2)
    for count in (1, 2):
        until(lambda: "a" in scores(stage.redis, "retry"), "the task waits to be tried again")
        failed = task_hash(stage.redis, "a")
        assert (failed["state"], failed["retry"], failed["error_msg"]) == ("retry", str(count), "busy")
        asyncio.run(recover(redis_server, ahead=3600))
    until_state(stage.redis, "a", "archived")
    last = task_hash(stage.redis, "a")
    assert (last["retry"], last["max_retry"], last["error_msg"]) == ("2", "2", "busy")
    assert scores(stage.redis, "archived").keys() == {"a"}
    assert [stage.redis.get(f"asynq:inference.default:{name}") for name in ("processed", "failed")] == [b"3", b"3"]


def test_a_task_that_says_no_maximum_gets_the_configured_one(stage: Stage) -> None:
    stage.queue("inference")
    flat_agent(stage, max_retry=0).wait_running()
    enqueue(stage.redis, "says nothing", {"retry": "busy"})
    stage.redis.hdel("asynq:t:says nothing", "max_retry")
    enqueue(stage.redis, "says more", {"retry": "busy"}, max_retry=9)
    for task_id in ("says nothing", "says more"):
        assert until_state(stage.redis, task_id, "archived", "retry") == "archived"


def test_malformed_tasks_harm_no_other(stage: Stage) -> None:
    stage.queue("inference")
    stage.redis.lpush("asynq:inference.default:pending", "no-hash", b"\xff\xfe")
    stage.redis.hset("asynq:t:no-payload", "type", "task")
    stage.redis.lpush("asynq:inference.default:pending", "no-payload")
    enqueue(stage.redis, "bad-retry", {}, retry="often")
    enqueue(stage.redis, "good", {"n": 1})
    agent = flat_agent(stage, concurrency=3)
    assert until_state(stage.redis, "good", "completed", "archived") == "completed"
    until(lambda: scores(stage.redis, "archived").keys() == {"no-payload", "bad-retry"}, "the others are archived")
    assert task_hash(stage.redis, "no-payload")["error_msg"] == "archived unrun: the task's hash has no field payload"
    bad = task_hash(stage.redis, "bad-retry")
    assert 'the field retry of the task\'s hash is "often"' in bad["error_msg"]
    assert (bad["retry"], bad["payload"]) == ("often", "{}")
    assert not stage.redis.exists("asynq:inference.default:active", "asynq:inference.default:pending")
    assert agent.terminate() == 0
    assert "dropped the id 'no-hash'" in agent.log()


def test_a_paused_queue_is_left_alone(stage: Stage) -> None:
    stage.queue("inference", sub_queues={"inference.high": 1, "inference.low": 1})
    stage.redis.set("asynq:inference.high:paused", 1)
    flat_agent(stage, concurrency=2).wait_running()
    enqueue(stage.redis, "waits", {}, "inference.high")
    enqueue(stage.redis, "runs", {}, "inference.low")
    until_state(stage.redis, "runs", "completed")
    assert stage.redis.lrange("asynq:inference.high:pending", 0, -1) == [b"waits"]
    assert "state" not in task_hash(stage.redis, "waits")
    stage.redis.delete("asynq:inference.high:paused")
    until_state(stage.redis, "waits", "completed")


def test_after_a_lost_lease_nothing_is_written(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = flat_agent(stage).wait_running()
    go = tmp_path / "go"
    enqueue(stage.redis, "a", {"wait_for": str(go)})
    until_state(stage.redis, "a", "active")
    theirs = int(time.time()) + 3600
    stage.redis.zadd("asynq:inference.default:active", {"a": theirs})
    before = task_hash(stage.redis, "a")
    go.touch()
    until(lambda: "lost task a" in agent.log(), "the worker has noticed")
    assert task_hash(stage.redis, "a") == before
    assert scores(stage.redis, "active") == {"a": theirs}
    assert not stage.redis.exists("asynq:result:a", "asynq:inference.default:completed")
    assert not stage.redis.exists("asynq:inference.default:processed")


def test_a_task_is_cancelled_through_the_channel_or_by_its_timeout(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    flat_agent(stage).wait_running()
    never = {"wait_for": str(tmp_path / "never")}
    enqueue(stage.redis, "cancelled", never)
    until_state(stage.redis, "cancelled", "active")
    until(lambda: stage.redis.publish("asynq:cancel", "cancelled"), "somebody listens")
    until_state(stage.redis, "cancelled", "retry")
    assert "cancelled through asynq:cancel" in task_hash(stage.redis, "cancelled")["error_msg"]
    enqueue(stage.redis, "slow", never, timeout=1)
    until_state(stage.redis, "slow", "retry")
    assert task_hash(stage.redis, "slow")["error_msg"].startswith("context deadline exceeded")


def test_a_stop_puts_what_is_running_back(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = flat_agent(stage, shutdown_timeout="0").wait_running()
    enqueue(stage.redis, "a", {"wait_for": str(tmp_path / "never")})
    until_state(stage.redis, "a", "active")
    assert agent.terminate() == 0
    assert stage.redis.lrange("asynq:inference.default:pending", 0, -1) == [b"a"]
    back = task_hash(stage.redis, "a")
    assert (back["state"], back["retry"]) == ("pending", "0")
    assert not stage.redis.exists("asynq:inference.default:active")


def test_the_task_of_a_killed_worker_is_recovered(stage: Stage, redis_server: RedisServer, tmp_path: Path) -> None:
    stage.queue("inference")
    killed = flat_agent(stage).wait_running()
    go = tmp_path / "go"
    enqueue(stage.redis, "a", {"wait_for": str(go)})
    until_state(stage.redis, "a", "active")
    killed.kill()
    go.touch()
    asyncio.run(recover(redis_server, ahead=61))
    recovered = task_hash(stage.redis, "a")
    assert (recovered["state"], recovered["retry"], recovered["error_msg"]) == ("pending", "1", LEASE_EXPIRED)
    flat_agent(stage).wait_running()
    until_state(stage.redis, "a", "completed")
    assert task_hash(stage.redis, "a")["retry"] == "1"


def test_a_worker_killed_at_any_instant_loses_nothing(stage: Stage, redis_server: RedisServer, tmp_path: Path) -> None:
    chance = random.Random(2)
    tasks, kills, concurrency = 200, 5, 10
    runs = tmp_path / "runs"
    runs.touch()
    stage.queue("inference", {"main.py": COUNTING}, env_vars={"RUNS": str(runs)})
    ids = [enqueue(stage.redis, str(number), number, max_retry=50) for number in range(tasks)]

    def completed() -> int:
        return int(stage.redis.zcard("asynq:inference.default:completed"))

    def reached(goal: int) -> bool:
        return completed() >= goal

    for _ in range(kills):
        agent = flat_agent(stage, concurrency=concurrency)
        goal = completed() + chance.randrange(tasks // kills)
        until(partial(reached, goal), "some work is done")
        agent.kill()
        asyncio.run(recover(redis_server, ahead=61))
    flat_agent(stage, concurrency=concurrency).wait_running()
    until(lambda: completed() == tasks, "every task is completed")
    assert scores(stage.redis, "completed").keys() == set(ids)
    assert not stage.redis.exists(*(f"asynq:inference.default:{part}" for part in ("pending", "active", "retry")))
    counted = runs.read_text().split()
    assert set(counted) == set(ids)
    assert len(counted) - tasks <= kills * concurrency
    retries = sum(int(task_hash(stage.redis, task_id)["retry"]) for task_id in ids)
    assert int(stage.redis.get("asynq:inference.default:failed") or 0) == retries


def test_two_workers_share_a_queue_and_every_task_is_run_once(stage: Stage, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.touch()
    stage.queue("inference", {"main.py": COUNTING}, env_vars={"RUNS": str(runs)})
    for agent in [flat_agent(stage, concurrency=2) for _ in range(2)]:
        agent.wait_running()
    assert stage.redis.scard("asynq:workers") == 2
    ids = [enqueue(stage.redis, str(number), number) for number in range(100)]
    for task_id in ids:
        until_state(stage.redis, task_id, "completed")
    assert sorted(runs.read_text().split()) == sorted(ids)


def test_a_program_that_embeds_the_worker_serves_it_too(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    environment = {"RUNQY_REDIS_ADDRESS": redis_server.address, "RUNQY_REDIS_LAYOUT": "flat"}
    worker = Worker(load_config(environ=environment, server_required=False), queues={"q": 1})

    async def handler(task: Task) -> Any:
        assert (task.type, task.retried, task.max_retry) == ("email:send", 1, 25)
        worker.stop()
        return {"sent": task.json()}

    worker.handle("email:", handler)
    redis_client.hset("asynq:t:a", mapping={"type": "email:send", "payload": '"x"', "retry": "1"})
    redis_client.lpush("asynq:q:pending", "a")
    asyncio.run(worker.serve())
    assert task_hash(redis_client, "a")["state"] == "completed"
    assert redis_client.get("asynq:result:a") == b'{"sent":"x"}'


ONCE = BootstrapSettings(retries=1)


def opened(address: RedisAddress, flat: FlatDefaults | None) -> str:
    """Open a broker; returns what is wrong, or nothing."""

    async def run() -> str:
        clients = Clients()
        try:
            broker = await open_broker(clients, address, Clock(), ONCE, flat)
            subscriber = clients.open_subscriber(address)
            await examine(broker, subscriber, address, [QUEUE], bootstrap=ONCE, fallbacks=Fallbacks())
        except (BrokerError, ConfigError) as error:
            return str(error)
        finally:
            await clients.close()
        return ""

    return asyncio.run(run())


def test_asynqs_layout_is_not_served_where_workers_of_the_flat_one_are_listed(stage: Stage) -> None:
    stage.queue("inference")
    stage.redis.sadd("asynq:workers", "old-host:1")
    agent = stage.agent()
    assert agent.wait() == ExitCode.BROKER
    assert "asynq:workers in Redis at 127.0.0.1" in agent.log()
    assert "set redis.layout: flat" in agent.log()
    assert stage.redis.smembers("asynq:workers") == {b"old-host:1"}


@pytest.mark.parametrize("flat", [None, FlatDefaults()], ids=["asynq", "flat"])
def test_a_list_of_workers_of_no_known_kind_is_refused(
    flat: FlatDefaults | None, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    redis_client.set("asynq:workers", "x")
    assert "is a string, of which no worker knows" in opened(RedisAddress("127.0.0.1", redis_server.port), flat)


def test_a_sorted_set_of_workers_is_joined_with_a_warning(
    redis_server: RedisServer, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.zadd("asynq:workers", {"theirs": 1})
    assert opened(RedisAddress("127.0.0.1", redis_server.port), FlatDefaults()) == ""
    assert "asynq:workers is a sorted set" in caplog.text


def test_a_cluster_is_refused_before_anything_is_contacted() -> None:
    address = RedisAddress("127.0.0.1", 9, seeds=(("127.0.0.1", 9),))
    assert opened(address, FlatDefaults()).startswith("redis.layout: flat is not for Redis Cluster")


@pytest.fixture
def restricted(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[RedisAddress]:
    """A user who may do what asynq's layout needs, and not all of what this one does."""
    try:
        redis_client.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "&*", "+@all", "-sadd", "-srem")
    except ResponseError as error:
        pytest.skip(f"this server has no such user: {error}")
    yield RedisAddress("127.0.0.1", redis_server.port, username="few", password=Secret("pw"))
    redis_client.execute_command("ACL", "DELUSER", "few")


def test_missing_permissions_are_named_at_start(restricted: RedisAddress) -> None:
    assert opened(restricted, None) == ""
    said = opened(restricted, FlatDefaults())
    assert "does not permit SADD on asynq:inference.default:probe in a script" in said
    assert "SREM on asynq:workers" in said
