"""Every step of the worker, and of the clients that the tests use, does to Redis what the recorded asynq did.

The recordings may be others (``RUNQY_VECTORS=DIRECTORY``): nothing here knows their names, ids or numbers.
"""

from __future__ import annotations

import asyncio
import base64
import copy
from typing import TYPE_CHECKING, Any

import pytest

from asynq_operations import AsynqClient, ConflictError, DuplicateError, RefusedError
from runqy_agent.broker.asynq_pb2 import ServerInfo, TaskMessage, WorkerInfo
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.message import TakenTask, decode
from runqy_agent.broker.presence import WORKER_TTL, Identity, Presence, WorkerState
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.demo.client import TaskClient
from runqy_agent.handlers import Task
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from set_clock import SetClock
from vectors_kit import DIRECTORY, OWN_DIRECTORY, differences, dump, load, restore

if TYPE_CHECKING:
    import redis
    from google.protobuf.message import Message

    from runqy_agent.demo.redis_server import RedisServer

CASES: list[dict[str, Any]] = load("asynq_transitions.json")
WORKER_OPERATIONS = {
    "dequeue",
    "done",
    "complete",
    "retry",
    "archive",
    "requeue",
    "forward",
    "extend_lease",
    "list_lease_expired",
    "delete_expired_completed",
}
CLIENT_OPERATIONS = {"enqueue", "enqueue_unique", "schedule"}
STATUSES = {"new": "bootstrapping", "active": "running", "closed": "draining", "stopped": "stopped"}
"""asynq's words for how a server is, and the worker's."""


def cases(*operations: str) -> list[Any]:
    """The recorded cases of some operations, as parameters."""
    return [pytest.param(case, id=case["name"]) for case in CASES if case["op"] in operations]


def expected(case: dict[str, Any]) -> dict[str, Any]:
    """What is there afterwards: what asynq leaves, but where the worker does better on purpose."""
    if "NOT FOUND" in case.get("error", ""):
        # Nothing is changed for a task that is not held; asynq may have done half of the step by then.
        before: dict[str, Any] = case["before"]
        return before
    after: dict[str, Any] = copy.deepcopy(case["after"])
    if case["op"] == "requeue":
        # A requeued task says since when it is pending, so that its pending timeout can be told; asynq leaves that out.
        key = f"asynq:{{{case['args']['queue']}}}:t:{case['args']['id']}"
        after[key]["value_b64"]["pending_since"] = base64.b64encode(str(case["now_ns"]).encode()).decode()
    return after


def canonical(state: dict[str, Any]) -> dict[str, Any]:
    """A state in which maps inside of messages are sorted: Go writes their entries in random order."""
    found = copy.deepcopy(state)
    for key, entry in found.items():
        values = entry.get("value_b64")
        if isinstance(values, dict):
            kind: type[Message] = (
                WorkerInfo if key.startswith(("asynq:workers:", "asynq:active-workers:")) else TaskMessage
            )
            for name in values:
                if name == "msg" or kind is WorkerInfo:
                    values[name] = _sorted(kind, values[name])
        elif key.startswith("asynq:servers:"):
            entry["value_b64"] = _sorted(ServerInfo, values)
    return found


def _sorted(kind: type[Message], encoded: str) -> str:
    message = kind.FromString(base64.b64decode(encoded))
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()


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
        held_until = lease if lease is not None else self.case["now"] + 30
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
        task = self.held()
        return await self.finish(task, Revoked() if task.message.retention else Success())

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
            end = lease if lease is not None else self.case["now"]
            tasks.append(TakenTask(task_id, self.args["queue"], message, end, end, self.clock.now()))
        held = dict(self.case["before"].get(f"asynq:{{{self.args['queue']}}}:lease", {"value": []})["value"])
        lost = await self.broker.extend(self.args["queue"], tasks)
        assert lost == [task for task in tasks if task.id not in held]
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
            task = TakenTask(worker["task_id"], worker["queue"], message, 0, 0, deadline=worker["deadline"])
            task.begin(worker["started"])
            running.append(task)
        state = WorkerState(
            STATUSES[self.args["status"]],
            self.args["concurrency"],
            self.args["queues"],
            strict_priority=self.args.get("strict_priority", False),
            running=running,
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


def unlike(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return differences(canonical(found), canonical(wanted))


@pytest.mark.parametrize("case", cases(*WORKER_OPERATIONS))
def test_a_step_changes_what_asynq_changes(
    case: dict[str, Any], redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    result, found = replayed(case, redis_server, redis_client)
    assert unlike(found, expected(case)) == []
    if isinstance(result, bool):
        assert result == (not case.get("error"))
    elif result is not None and case.get("result") is not None:
        assert result == case["result"]


@pytest.mark.parametrize("case", cases(*CLIENT_OPERATIONS))
def test_the_tests_clients_enqueue_as_asynqs_client_does(case: dict[str, Any], redis_client: redis.Redis) -> None:
    restore(redis_client, case["before"])
    clock = SetClock(case["now"])
    clock.time_ns = case["now_ns"]
    client = AsynqClient(redis_client, clock)
    task = TaskMessage.FromString(base64.b64decode(case["args"]["msg"]["encoded_b64"]))
    refusal: type[RefusedError] | None = None
    try:
        if case["op"] == "schedule":
            client.schedule(task, case["args"]["process_at"])
        else:
            client.put(task, case["args"].get("ttl", 0))
    except RefusedError as error:
        refusal = type(error)
    reasons = {"conflicts": ConflictError, "already exists": DuplicateError}
    expected_refusals = [kind for words, kind in reasons.items() if words in case.get("error", "")]
    assert ([refusal] if refusal else []) == expected_refusals
    assert unlike(dump(redis_client), case["after"]) == []


@pytest.mark.parametrize("case", cases("write_result"))
def test_a_result_is_written_with_its_task_and_not_before(
    case: dict[str, Any], redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """asynq writes a result while its task is still active; here it waits, so that no one sees it without its task."""
    restore(redis_client, case["before"])
    replay = Replay(case, RedisAddress("127.0.0.1", redis_server.port), redis_client)
    taken = replay.held()
    writer = Task(taken).result_writer
    written = writer.write(base64.b64decode(case["args"]["data_b64"]))
    assert written == case["result"]
    assert unlike(dump(redis_client), case["before"]) == []

    async def complete() -> bool:
        held = await replay.finish(taken, Success(writer.data), Policy(store_results=True))
        await replay.redis.aclose()
        return held

    assert asyncio.run(complete())
    key = f"asynq:{{{taken.queue}}}:t:{taken.id}"
    stored, recorded = dump(redis_client)[key]["value_b64"], case["after"][key]["value_b64"]
    assert stored["result"] == recorded["result"]
    assert base64.b64decode(stored["state"]) == b"completed"


@pytest.mark.parametrize("case", cases("write_server_state"))
def test_the_server_state_differs_only_in_the_name_of_the_active_tasks(
    case: dict[str, Any], redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    _, found = replayed(case, redis_server, redis_client)
    instance, theirs, ours = names_of(case)
    assert found.pop(f"asynq:workers:{instance}")["type"] == "hash"  # the runqy server's own record
    members = dict(found["asynq:workers"]["value"])
    ends = case["now"] + case["args"]["ttl"]
    assert members.pop(instance) == case["now"] + WORKER_TTL
    assert members.pop(ours) == ends
    found["asynq:workers"]["value"] = sorted([[theirs, ends], *map(list, members.items())])
    if ours in found:
        found[theirs] = found.pop(ours)
    assert unlike(found, case["after"]) == []


@pytest.mark.parametrize("case", cases("clear_server_state"))
def test_clearing_the_server_state_leaves_what_asynq_leaves(
    case: dict[str, Any], redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    before = copy.deepcopy(case["before"])
    instance, theirs, ours = names_of(case)
    if theirs in before:  # as if it had been written by this worker
        before[ours] = before.pop(theirs)
    listed = before.setdefault("asynq:workers", {"type": "zset", "value": []})
    listed["value"] = [[ours if member == theirs else member, end] for member, end in listed["value"]]
    listed["value"].append([instance, case["now"] + WORKER_TTL])
    before[f"asynq:workers:{instance}"] = {
        "type": "hash",
        "value_b64": {"status": base64.b64encode(b"running").decode()},
    }
    _, found = replayed({**case, "before": before}, redis_server, redis_client)
    assert unlike(found, case["after"]) == []


def names_of(case: dict[str, Any]) -> tuple[str, str, str]:
    """A worker process, and the hash of its running tasks by asynq's name and by ours."""
    instance = f"{case['args']['host']}:{case['args']['pid']}:{case['args']['server_id']}"
    return instance, f"asynq:workers:{{{instance}}}", f"asynq:active-workers:{{{instance}}}"


def test_no_recorded_case_is_left_out() -> None:
    own = {"write_result", "write_server_state", "clear_server_state"}
    replayed_cases = [*cases(*WORKER_OPERATIONS), *cases(*CLIENT_OPERATIONS), *cases(*own)]
    assert {case["op"] for case in CASES} - WORKER_OPERATIONS - CLIENT_OPERATIONS - own == set()
    assert len(replayed_cases) == len(CASES)
    assert DIRECTORY != OWN_DIRECTORY or len(CASES) == 32


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
