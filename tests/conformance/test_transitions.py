"""Every step of the worker does to Redis what the recorded asynq did."""

from __future__ import annotations

import asyncio
import base64
import copy
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.message import TakenTask, decode
from runqy_agent.broker.presence import Identity, Presence, WorkerState
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.demo.client import TaskClient
from runqy_agent.outcome import Failure, Outcome, Success, Unstarted
from set_clock import SetClock
from vectors_kit import differences, dump, load, restore

if TYPE_CHECKING:
    import redis

    from runqy_agent.demo.redis_server import RedisServer

CASES: list[dict[str, Any]] = load("asynq_transitions.json")
CLIENT_OPERATIONS = {"enqueue", "enqueue_unique", "schedule"}


def unchanged(case: dict[str, Any]) -> dict[str, Any]:
    """Nothing is changed for a task that is not held, where asynq leaves a half-done step behind."""
    before: dict[str, Any] = case["before"]
    return before


def with_pending_since(case: dict[str, Any]) -> dict[str, Any]:
    """A requeued task says since when it is pending, so that its pending timeout can be told; asynq leaves that out."""
    after: dict[str, Any] = copy.deepcopy(case["after"])
    key = f"asynq:{{{case['args']['queue']}}}:t:{case['args']['id']}"
    after[key]["value_b64"]["pending_since"] = base64.b64encode(str(case["now_ns"]).encode()).decode()
    return after


# Where the worker does better than asynq on purpose, and what is expected instead.
BETTER = {
    "done after the lease entry was removed by a recoverer": unchanged,
    "requeue puts the task at the head (next to be taken)": with_pending_since,
}


class Replay:
    """One recorded operation, done by this worker's broker."""

    def __init__(self, case: dict[str, Any], address: RedisAddress, client: redis.Redis) -> None:
        self.case = case
        self.args = case["args"]
        self.client = client
        self.clock = SetClock(case["now"])
        self.clock.time_ns = case["now_ns"]
        self.redis = open_client(address)
        self.broker = Broker(self.redis, self.clock, lookup_keys=False)

    async def run(self) -> Any:
        try:
            return await getattr(self, f"do_{self.case['op']}")()
        finally:
            await self.redis.aclose()

    def held(self) -> TakenTask:
        """The task that an earlier take has made active."""
        queue, task_id = self.args["queue"], self.args["id"]
        raw: Any = self.client.hget(f"asynq:{{{queue}}}:t:{task_id}", "msg")
        lease: Any = self.client.zscore(f"asynq:{{{queue}}}:lease", task_id)
        message, _ = decode(raw, task_id, queue)
        held_until = int(lease or self.case["now"] + 30)
        return TakenTask(task_id, queue, message, held_until, held_until, self.clock.now())

    async def finish(self, task: TakenTask, outcome: Outcome, policy: Policy | None = None) -> bool:
        settled = (policy or Policy()).settle(task, outcome, self.clock.now_ns())
        (answer,) = await self.broker.exchange([Exchange(task.queue, finished=[settled])])
        assert answer.error is None
        return answer.held[0]

    async def do_dequeue(self) -> dict[str, Any] | None:
        for queue in self.args["queues"]:
            (answer,) = await self.broker.exchange([Exchange(queue, take=1)])
            assert answer.error is None
            if answer.taken:
                return {"id": answer.taken[0].id, "lease_expires_at": answer.taken[0].held_until}
        return None

    async def do_done(self) -> bool:
        return await self.finish(self.held(), Success())

    async def do_complete(self) -> bool:
        task = self.held()
        stored: Any = self.client.hget(f"asynq:{{{task.queue}}}:t:{task.id}", "result")
        assert task.message.retention == self.args["retention"]
        return await self.finish(task, Success(stored), Policy(store_results=True))

    async def do_retry(self) -> bool:
        delay = self.args["process_at"] - self.case["now"]
        return await self.finish(self.held(), Failure(self.args["error"], counted=self.args["is_failure"], delay=delay))

    async def do_archive(self) -> bool:
        return await self.finish(self.held(), Failure(self.args["error"], retry=False))

    async def do_requeue(self) -> bool:
        return await self.finish(self.held(), Unstarted())

    async def do_forward(self) -> None:
        for queue in self.args["queues"]:
            await self.broker.forward(queue)

    async def do_extend_lease(self) -> int:
        tasks = []
        for task_id in self.args["ids"]:
            message, _ = decode(None, task_id, self.args["queue"])
            lease: Any = self.client.zscore(f"asynq:{{{self.args['queue']}}}:lease", task_id)
            end = int(lease or self.case["now"])
            tasks.append(TakenTask(task_id, self.args["queue"], message, end, end, self.clock.now()))
        lost = await self.broker.extend(self.args["queue"], tasks)
        assert lost == ([] if self.client.exists(f"asynq:{{{self.args['queue']}}}:lease") else tasks)
        return int(self.clock.now()) + 30

    async def do_list_lease_expired(self) -> list[str]:
        found = []
        for queue in self.args["queues"]:
            found += [expired.task.id for expired in await self.broker.expired(queue, self.args["cutoff"])]
        return found

    async def do_delete_expired_completed(self) -> None:
        await self.broker.expire_completed(self.args["queue"])

    async def do_write_server_state(self) -> None:
        running = []
        for worker in self.args["workers"]:
            payload = base64.b64decode(worker["payload_b64"])
            message, _ = decode(None, worker["task_id"], worker["queue"])
            message.type, message.payload = worker["type"], payload
            task = TakenTask(worker["task_id"], worker["queue"], message, 0, 0, worker["started"])
            task.deadline = worker["deadline"]
            running.append(task)
        state = WorkerState(
            "running", self.args["concurrency"], self.args["queues"], strict_priority=False, running=running
        )
        await self.presence().beat(state)

    async def do_clear_server_state(self) -> None:
        await self.presence().clear()

    def presence(self) -> Presence:
        identity = Identity(self.args["host"], self.args["pid"], self.args["server_id"], self.args.get("started", 0))
        return Presence(self.broker, self.clock, identity)


def replayed(case: dict[str, Any], redis_server: RedisServer, client: redis.Redis) -> tuple[Any, dict[str, Any]]:
    restore(client, case["before"])
    result = asyncio.run(Replay(case, RedisAddress("127.0.0.1", redis_server.port), client).run())
    return result, dump(client)


def worker_cases() -> list[Any]:
    own = CLIENT_OPERATIONS | {"write_result", "write_server_state", "clear_server_state"}
    return [pytest.param(case, id=case["name"]) for case in CASES if case["op"] not in own]


@pytest.mark.parametrize("case", worker_cases())
def test_a_step_changes_what_asynq_changes(
    case: dict[str, Any], redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    result, found = replayed(case, redis_server, redis_client)
    expected = BETTER[case["name"]](case) if case["name"] in BETTER else case["after"]
    assert differences(found, expected) == []
    if isinstance(result, bool):
        assert result == ("error" not in case or not case["error"])
    elif result is not None and case.get("result") is not None:
        assert result == case["result"]


def test_the_server_state_differs_only_in_the_name_of_the_active_tasks(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    case = next(case for case in CASES if case["op"] == "write_server_state")
    _, found = replayed(case, redis_server, redis_client)
    instance = "node-01:4242:9e8c5460-35ea-b7e2-da42-0f32ed5c94bc"
    theirs, ours = f"asynq:workers:{{{instance}}}", f"asynq:active-workers:{{{instance}}}"
    assert found.pop(f"asynq:workers:{instance}")["type"] == "hash"  # the runqy server's own record
    members = dict(found["asynq:workers"]["value"])
    assert members == {ours: case["now"] + 10, instance: case["now"] + 30}
    found["asynq:workers"]["value"] = [[theirs, case["now"] + 10]]
    found[theirs] = found.pop(ours)
    assert differences(found, case["after"]) == []


def test_clearing_the_server_state_leaves_nothing(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    written = next(case for case in CASES if case["op"] == "write_server_state")
    cleared = next(case for case in CASES if case["op"] == "clear_server_state")
    replayed(written, redis_server, redis_client)
    asyncio.run(Replay(cleared, RedisAddress("127.0.0.1", redis_server.port), redis_client).run())
    assert dump(redis_client) == {}


def test_what_an_exchange_took_is_found_again_when_its_reply_was_lost(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    tasks = TaskClient(redis_client)
    ours = [tasks.enqueue("q", b"%d" % number) for number in range(3)]

    async def run() -> list[TakenTask]:
        client = open_client(RedisAddress("127.0.0.1", redis_server.port))
        broker = Broker(client, Clock())
        lease = broker.new_lease()
        await broker.exchange([Exchange("q", take=3)], lease)  # suppose that this reply never arrived
        tasks.enqueue("q", b"another worker's")
        await broker.exchange([Exchange("q", take=1)], broker.new_lease())
        found = await broker.reclaim("q", lease)
        settled = [Policy().settle(task, Success(), Clock().now_ns()) for task in found]
        (answer,) = await broker.exchange([Exchange("q", finished=settled)])
        assert answer.held == [True, True, True]
        await client.aclose()
        return found

    found = asyncio.run(run())
    assert sorted(task.id for task in found) == sorted(ours)
    assert all(task.payload.isdigit() for task in found)
