"""What every step does to the keys of the flat layout, literally."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from runqy_agent.broker import scripts
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange, Exchanged
from runqy_agent.broker.flat import FlatBroker, FlatDefaults
from runqy_agent.broker.flat_presence import LOOK_EVERY, FlatPresence
from runqy_agent.broker.presence import Identity, WorkerState
from runqy_agent.broker.settle import LEASE_EXPIRED, Policy
from runqy_agent.broker.watch import Watch
from runqy_agent.demo.client import message
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.recoverer import GRACE, Recoverer
from runqy_agent.loops.route import Route
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

T = TypeVar("T")

NOW = 1_800_000_000
TODAY = "2027-01-15"
QUEUE = "inference.high"
HASH = {"type": "task", "payload": '{"input": "hello"}', "retry": "0", "max_retry": "3", "queue": QUEUE, "own": "é"}
COUNTED = {"asynq:inference.high:processed": "1", f"asynq:inference.high:processed:{TODAY}": "1"}
FAILED = {"asynq:inference.high:failed": "1", f"asynq:inference.high:failed:{TODAY}": "1"}


class Flat:
    """A Redis with tasks, and the broker of this layout."""

    def __init__(self, client: redis.Redis, server: RedisServer) -> None:
        self.redis: Any = client
        self.clock = SetClock(NOW)
        self.defaults = FlatDefaults(ttl_completed=3600)
        self.policy = Policy(store_results=True, retry_delay=lambda *_: 60.0, ttl_completed=3600)
        self._address = RedisAddress("127.0.0.1", server.port)

    def do(self, step: Callable[[FlatBroker], Awaitable[T]]) -> T:
        async def run() -> T:
            client = open_client(self._address)
            try:
                return await step(FlatBroker(client, self.clock, self.defaults))
            finally:
                await client.aclose()

        return asyncio.run(run())

    def enqueue(self, task_id: str = "a", **fields: Any) -> None:
        """As the documentation of the first worker shows it. A field that is None is left out."""
        whole = {name: value for name, value in (HASH | fields).items() if value is not None}
        self.redis.hset(f"asynq:t:{task_id}", mapping=whole)
        self.redis.lpush("asynq:inference.high:pending", task_id)

    def exchange(self, take: int = 0, *outcomes: tuple[TakenTask, Outcome]) -> Exchanged:
        settled = [self.policy.settle(task, outcome, self.clock.now_ns()) for task, outcome in outcomes]
        (answer,) = self.do(lambda broker: broker.exchange([Exchange(QUEUE, settled, take)]))
        assert answer.error is None
        return answer

    def take(self) -> TakenTask:
        (task,) = self.exchange(1).taken
        return task

    def finish(self, task: TakenTask, outcome: Outcome) -> bool:
        return self.exchange(0, (task, outcome)).held == [True]

    def recover(self) -> None:
        self.do(lambda broker: Recoverer(broker, self.clock, {QUEUE: self.policy}).round())

    def everything(self) -> dict[str, Any]:
        """All keys with their values."""
        read: dict[str, Callable[[str], Any]] = {
            "list": lambda key: [item.decode() for item in self.redis.lrange(key, 0, -1)],
            "set": lambda key: {item.decode() for item in self.redis.smembers(key)},
            "zset": lambda key: {
                item.decode(): score for item, score in self.redis.zrange(key, 0, -1, withscores=True)
            },
            "hash": lambda key: {name.decode(): value.decode() for name, value in self.redis.hgetall(key).items()},
            "string": lambda key: self.redis.get(key).decode(),
        }
        found = [key.decode() for key in self.redis.keys("*")]
        return {key: read[self.redis.type(key).decode()](key) for key in found}


@pytest.fixture
def flat(redis_client: redis.Redis, redis_server: RedisServer) -> Flat:
    return Flat(redis_client, redis_server)


def test_a_take_puts_the_oldest_into_the_sorted_set_until_the_end_of_its_lease(flat: Flat) -> None:
    for task_id in ("first", "second", "third"):
        flat.enqueue(task_id)
    flat.redis.hset("asynq:t:first", "pending_since", NOW * 10**9 - 5)
    first, second = flat.exchange(2).taken
    assert flat.everything() == {
        "asynq:inference.high:pending": ["third"],
        "asynq:inference.high:active": {"first": NOW + 30, "second": NOW + 30},
        "asynq:t:first": HASH | {"state": "active"},
        "asynq:t:second": HASH | {"state": "active"},
        "asynq:t:third": HASH,
    }
    assert (first.id, second.id, first.queue) == ("first", "second", QUEUE)
    assert (first.type, first.payload) == ("task", b'{"input": "hello"}')
    assert (first.message.retried, first.message.retry, first.pending_since) == (0, 3, NOW * 10**9 - 5)


def test_nothing_is_taken_from_a_paused_queue(flat: Flat) -> None:
    flat.enqueue()
    flat.redis.set("asynq:inference.high:paused", NOW)
    before = flat.everything()
    answer = flat.exchange(1)
    assert (answer.taken, answer.paused) == ([], True)
    assert flat.everything() == before


def test_a_completed_task_keeps_its_hash_and_its_result_for_a_time(flat: Flat) -> None:
    flat.enqueue()
    task = flat.take()
    flat.clock.advance(5)
    assert flat.finish(task, Success(b'{"output": 1}'))
    done = {"state": "completed", "completed_at": str(NOW + 5), "result": '{"output": 1}'}
    assert flat.everything() == COUNTED | {
        "asynq:inference.high:completed": {"a": NOW + 5 + 3600},
        "asynq:t:a": HASH | done,
        "asynq:result:a": '{"output": 1}',
    }
    assert 3590 < flat.redis.ttl("asynq:result:a") <= 3600
    assert flat.redis.ttl("asynq:t:a") == -1  # the janitor deletes it
    flat.clock.advance(3600)
    flat.do(lambda broker: Janitor(broker, [QUEUE], 0).round())
    assert flat.everything() == COUNTED | {"asynq:result:a": '{"output": 1}'}


def test_without_redis_storage_the_state_is_kept_and_no_result(flat: Flat) -> None:
    flat.policy = Policy(store_results=False)
    flat.enqueue()
    assert flat.finish(flat.take(), Success(b"1"))
    assert flat.everything() == COUNTED | {
        "asynq:inference.high:completed": {"a": NOW + 3600},
        "asynq:t:a": HASH | {"state": "completed", "completed_at": str(NOW)},
    }


def test_a_task_says_itself_how_long_it_is_kept(flat: Flat) -> None:
    flat.enqueue("a", ttl_completed=60)
    flat.enqueue("b", ttl_completed=0)
    first, second = flat.exchange(2).taken
    flat.exchange(0, (first, Success(b"1")), (second, Success(b"2")))
    assert flat.everything()["asynq:inference.high:completed"] == {"a": NOW + 60, "b": 253_402_300_799}
    assert 50 < flat.redis.ttl("asynq:result:a") <= 60
    assert flat.redis.ttl("asynq:result:b") == -1


def test_a_revoked_task_is_gone(flat: Flat) -> None:
    flat.enqueue()
    assert flat.finish(flat.take(), Revoked())
    assert flat.everything() == COUNTED


def test_a_failure_counts_in_the_hash_until_max_retry_is_reached(flat: Flat) -> None:
    flat.enqueue(max_retry=1)
    flat.finish(flat.take(), Failure("busy"))
    failed = HASH | {"max_retry": "1", "retry": "1", "error_msg": "busy", "last_failed_at": str(NOW)}
    assert flat.everything() == COUNTED | FAILED | {
        "asynq:inference.high:retry": {"a": NOW + 60},
        "asynq:t:a": failed | {"state": "retry"},
    }
    flat.clock.advance(60)
    flat.do(lambda broker: broker.forward(QUEUE))
    assert flat.everything() == COUNTED | FAILED | {
        "asynq:inference.high:pending": ["a"],
        "asynq:t:a": failed | {"state": "pending", "pending_since": str((NOW + 60) * 10**9)},
    }
    flat.finish(flat.take(), Failure("still busy"))
    twice = dict.fromkeys(COUNTED | FAILED, "2")
    last = {"state": "archived", "error_msg": "still busy", "last_failed_at": str(NOW + 60)}
    assert flat.everything() == twice | {
        "asynq:inference.high:archived": {"a": NOW + 60},
        "asynq:t:a": failed | last,
    }


def test_a_failure_that_does_not_count_is_not_counted(flat: Flat) -> None:
    flat.enqueue()
    flat.finish(flat.take(), Failure("not yet", counted=False, delay=7))
    assert flat.everything() == {
        "asynq:inference.high:retry": {"a": NOW + 7},
        "asynq:t:a": HASH | {"state": "retry", "error_msg": "not yet", "last_failed_at": str(NOW)},
    }


def test_a_task_that_was_not_run_goes_back_to_the_head_of_its_queue(flat: Flat) -> None:
    flat.enqueue("a")
    flat.enqueue("b")
    assert flat.finish(flat.take(), Unstarted())
    assert flat.everything() == {
        "asynq:inference.high:pending": ["b", "a"],
        "asynq:t:a": HASH | {"state": "pending", "pending_since": str(NOW * 10**9)},
        "asynq:t:b": HASH,
    }


def test_scheduled_tasks_become_pending_and_there_are_no_groups(flat: Flat) -> None:
    flat.redis.hset("asynq:t:a", mapping=HASH | {"group": "g"})
    flat.redis.zadd("asynq:inference.high:scheduled", {"a": NOW, "gone": NOW, "later": NOW + 1})
    flat.do(lambda broker: broker.forward(QUEUE))
    assert flat.everything() == {
        "asynq:inference.high:pending": ["a"],
        "asynq:inference.high:scheduled": {"later": NOW + 1},
        "asynq:t:a": HASH | {"group": "g", "state": "pending", "pending_since": str(NOW * 10**9)},
    }


def test_a_lease_is_extended_only_while_it_is_ours(flat: Flat) -> None:
    for task_id in ("kept", "gone", "theirs"):
        flat.enqueue(task_id)
    tasks = flat.exchange(3).taken
    flat.redis.zrem("asynq:inference.high:active", "gone")
    flat.redis.zadd("asynq:inference.high:active", {"theirs": NOW + 31})
    flat.clock.advance(10)
    lost = flat.do(lambda broker: broker.extend(QUEUE, tasks))
    assert [task.id for task in lost] == ["gone", "theirs"]
    assert flat.everything()["asynq:inference.high:active"] == {"kept": NOW + 40, "theirs": NOW + 31}


@pytest.mark.parametrize(
    "outcome", [Success(b"1"), Failure("x"), Failure("x", retry=False), Unstarted(), Revoked()], ids=str
)
@pytest.mark.parametrize("theirs", [None, NOW + 31.5], ids=["recovered", "taken by another"])
def test_after_a_lost_lease_nothing_is_written(flat: Flat, outcome: Outcome, theirs: float | None) -> None:
    flat.enqueue()
    task = flat.take()
    flat.redis.zrem("asynq:inference.high:active", "a")
    if theirs:
        flat.redis.zadd("asynq:inference.high:active", {"a": theirs})
    before = flat.everything()
    assert not flat.finish(task, outcome)
    assert flat.everything() == before


@pytest.mark.parametrize(
    ("score", "rounds"),
    [(NOW - GRACE - 1, 1), ("-inf", 1), (NOW * 1000, 2), (NOW * 10**9, 2), ("+inf", 2)],
    ids=["ended", "-inf", "milliseconds", "nanoseconds", "+inf"],
)
@pytest.mark.parametrize("state", ["active", "pending", None])
def test_a_task_whose_worker_went_away_is_recovered(flat: Flat, score: Any, rounds: int, state: str | None) -> None:
    fields = HASH | ({"state": state} if state else {})  # not every worker notes the state
    flat.redis.hset("asynq:t:a", mapping=fields)
    flat.redis.zadd("asynq:inference.high:active", {"a": score})
    for _ in range(rounds):
        flat.recover()
        flat.clock.advance(GRACE + 1)
    at = int(NOW + (rounds - 1) * (GRACE + 1))
    assert flat.everything() == COUNTED | FAILED | {
        "asynq:inference.high:retry": {"a": at + 60},
        "asynq:t:a": fields | {"state": "retry", "retry": "1", "error_msg": LEASE_EXPIRED, "last_failed_at": str(at)},
    }


def test_a_lost_worker_uses_up_the_last_retry(flat: Flat) -> None:
    flat.redis.hset("asynq:t:a", mapping=HASH | {"retry": "3"})
    flat.redis.zadd("asynq:inference.high:active", {"a": NOW - 3600, "without a hash": NOW - 3600})
    flat.recover()
    assert flat.everything()["asynq:inference.high:archived"] == {"a": NOW}
    assert flat.everything()["asynq:t:a"]["state"] == "archived"
    assert not flat.redis.exists("asynq:inference.high:active")


def test_leases_that_are_not_over_long_enough_are_left_alone(flat: Flat) -> None:
    flat.enqueue()
    flat.take()
    before = flat.everything()
    flat.clock.advance(30 + GRACE - 1)
    flat.recover()
    assert flat.everything() == before


def test_what_an_exchange_took_is_found_again_when_its_reply_was_lost(flat: Flat) -> None:
    async def run(broker: FlatBroker) -> list[TakenTask]:
        lease = broker.new_lease()
        await broker.exchange([Exchange(QUEUE, take=2)], lease)
        await broker.exchange([Exchange(QUEUE, take=1)], broker.new_lease())
        return await broker.reclaim(QUEUE, lease)

    for task_id in ("a", "b", "another's"):
        flat.enqueue(task_id)
    found = flat.do(run)
    assert sorted(task.id for task in found) == ["a", "b"]
    assert {task.payload for task in found} == {b'{"input": "hello"}'}
    assert flat.exchange(0, *((task, Success(b"1")) for task in found)).held == [True, True]


def test_old_archived_tasks_are_deleted(flat: Flat) -> None:
    for task_id, own in (("old", {}), ("kept", {"ttl_archived": "0"}), ("young", {})):
        flat.redis.hset(f"asynq:t:{task_id}", mapping=HASH | own)
    flat.redis.zadd("asynq:inference.high:archived", {"old": NOW - 100, "kept": NOW - 100, "young": NOW - 99})
    flat.do(lambda broker: Janitor(broker, [QUEUE], 100).round())
    assert flat.everything() == {
        "asynq:inference.high:archived": {"kept": NOW - 100, "young": NOW - 99},
        "asynq:t:kept": HASH | {"ttl_archived": "0"},
        "asynq:t:young": HASH,
    }


@pytest.mark.parametrize("part", ["completed", "archived", "retry"])
def test_an_id_that_is_used_again_is_a_new_task(flat: Flat, part: str) -> None:
    flat.redis.zadd(f"asynq:inference.high:{part}", {"a": NOW - 10**6})
    flat.enqueue("a")
    flat.take()
    before = flat.everything()
    flat.do(lambda broker: Janitor(broker, [QUEUE], 100).round())
    flat.do(lambda broker: broker.forward(QUEUE))
    assert flat.everything() == before
    assert before == {
        "asynq:inference.high:active": {"a": NOW + 30},
        "asynq:t:a": HASH | {"state": "active"},
    }


def test_a_message_in_the_hash_is_the_task_and_the_fields_keep_step(flat: Flat) -> None:
    stored = message(QUEUE, b"payload", task_id="a", max_retry=5, timeout=9, retention=0)
    stored.retried = 2
    flat.enqueue(msg=stored.SerializeToString(), retry="0", max_retry="3")
    task = flat.take()
    assert (task.payload, task.message.retried, task.message.retry) == (b"payload", 2, 5)
    flat.finish(task, Failure("busy"))
    found = flat.redis.hgetall("asynq:t:a")
    after = TaskMessage.FromString(found.pop(b"msg"))
    assert (after.retried, after.retry, after.timeout, after.error_msg) == (3, 5, 9, "busy")
    fields = {"state": "retry", "retry": "3", "max_retry": "5", "error_msg": "busy", "last_failed_at": str(NOW)}
    assert {name.decode(): value.decode() for name, value in found.items()} == HASH | fields


def test_a_message_without_retention_is_gone_when_it_is_done(flat: Flat) -> None:
    flat.policy = Policy(store_results=False)
    flat.enqueue(msg=message(QUEUE, b"{}", task_id="a", retention=0).SerializeToString())
    assert flat.finish(flat.take(), Success())
    assert flat.everything() == COUNTED


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": None}, "the task's hash has no field type"),
        ({"payload": None}, "the task's hash has no field payload"),
        ({"payload": None, "type": None}, "the task's hash has no field type and no field payload"),
        ({"type": b"\xff"}, "the field type of the task's hash is not UTF-8"),
        ({"retry": "many"}, 'the field retry of the task\'s hash is "many"; allowed is a number from 0 to 2147483647'),
        ({"retry": "1.5"}, 'the field retry of the task\'s hash is "1.5"'),
        ({"retry": "1_0"}, 'the field retry of the task\'s hash is "1_0"'),
        ({"max_retry": "-1"}, 'the field max_retry of the task\'s hash is "-1"'),
        ({"max_retry": "2147483648"}, 'the field max_retry of the task\'s hash is "2147483648"'),
        ({"timeout": "30s"}, 'the field timeout of the task\'s hash is "30s"'),
        ({"deadline": "9" * 60}, f'the field deadline of the task\'s hash is "{"9" * 50}"'),
        ({"retried": b"\xff"}, 'the field retried of the task\'s hash is "\ufffd"'),
        ({"msg": b"\xff\xff"}, "the stored message (2 bytes) is not a valid asynq message"),
    ],
)
def test_a_malformed_task_is_archived_with_a_reason_and_what_it_held(
    flat: Flat, fields: dict[str, Any], said: str
) -> None:
    flat.enqueue("good")
    flat.enqueue("bad", **fields)
    good, bad = flat.exchange(2).taken
    assert said in bad.malformed
    refusal = Route(QUEUE, 1, None, flat.policy).refusal(bad, flat.clock)  # type: ignore[arg-type]
    assert refusal is not None
    held = flat.redis.hgetall("asynq:t:bad")
    assert flat.exchange(0, (bad, refusal), (good, Success(b"1"))).held == [True, True]
    after = flat.redis.hgetall("asynq:t:bad")
    assert said in after.pop(b"error_msg").decode()
    assert (after.pop(b"state"), after.pop(b"last_failed_at")) == (b"archived", str(NOW).encode())
    del held[b"state"]
    if "msg" in fields:
        assert TaskMessage.FromString(after.pop(b"msg")).payload == held.pop(b"msg")
    assert after == held
    assert flat.redis.zrange("asynq:inference.high:archived", 0, -1) == [b"bad"]
    assert flat.redis.zrange("asynq:inference.high:completed", 0, -1) == [b"good"]


def test_an_id_without_a_hash_is_dropped_and_reported(flat: Flat) -> None:
    flat.redis.lpush("asynq:inference.high:pending", "no hash", "a string", b"\xff")
    flat.redis.set("asynq:t:a string", "x")
    flat.enqueue("good")
    answer = flat.exchange(4)
    assert answer.dropped == ["no hash", "a string", "\udcff"]
    assert [task.id for task in answer.taken] == ["good"]
    assert flat.everything()["asynq:inference.high:active"] == {"good": NOW + 30}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_retry": None}, {"retry": 7}),
        ({"max_retry": ""}, {"retry": 7}),
        ({"max_retry": "0"}, {"retry": 0}),
        ({"retry": None}, {"retried": 0}),
        ({"retry": "2"}, {"retried": 2}),
        ({"retry": "0", "retried": "2"}, {"retried": 2}),  # counted by the first worker
        ({"retry": "3", "retried": "2"}, {"retried": 3}),
        ({"timeout": "90", "deadline": ""}, {"timeout": 90, "deadline": 0}),
        ({"deadline": str(NOW + 5)}, {"deadline": NOW + 5}),
        ({"payload": ""}, {"payload": b""}),
        ({"payload": '"eyJhIjogMX0="'}, {"payload": b'"eyJhIjogMX0="'}),
    ],
)
def test_fields_are_read_as_what_they_mean(flat: Flat, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    flat.defaults = FlatDefaults(max_retry=7)
    flat.enqueue(**fields)
    task = flat.take()
    assert task.malformed == ""
    assert {name: getattr(task.message, name) for name in expected} == expected


def test_timeout_and_deadline_end_a_run(flat: Flat) -> None:
    flat.enqueue("timeout", timeout=90)
    flat.enqueue("deadline", timeout=90, deadline=NOW + 5)
    tasks = flat.exchange(2).taken
    for task in tasks:
        task.limit(0, flat.clock.offset)
        task.begin(NOW)
    assert [task.deadline for task in tasks] == [NOW + 90, NOW + 5]


def test_an_empty_queue_is_watched_from_two_slots(flat: Flat) -> None:
    async def run(broker: FlatBroker) -> list[list[int]]:
        slots = [await Watch(broker, broker.client, who).enter([QUEUE]) for who in ("a", "b", "c")]
        assert flat.everything().keys() == {
            "asynq:watch:alive:a",
            "asynq:watch:alive:b",
            "asynq:watch:alive:c",
            "asynq:watch:slots",
        }
        await Watch(broker, broker.client, "a").leave([QUEUE], "work")
        return slots

    assert flat.do(run) == [[1], [2], [0]]
    assert flat.everything()["asynq:watch:slots"] == {"2:inference.high": "b"}
    assert flat.everything()["asynq:watch:wakeup:inference.high"] == ["work"]


STATE = WorkerState("running", 4, {"inference.high": 9, "inference.low": 3}, strict_priority=False)


def test_a_worker_is_a_member_of_a_set_with_a_record_that_expires(flat: Flat) -> None:
    async def beat(broker: FlatBroker) -> None:
        await FlatPresence(broker, flat.clock, Identity("h", 1, "u", NOW)).beat(STATE)

    async def clear(broker: FlatBroker) -> None:
        await FlatPresence(broker, flat.clock, Identity("h", 1, "u", NOW)).clear()

    flat.do(beat)
    found = flat.everything()
    assert found.keys() == {"asynq:workers", "asynq:workers:h:1:u"}
    assert found["asynq:workers"] == {"h:1:u"}
    record = found["asynq:workers:h:1:u"]
    assert (record["started"], record["concurrency"], record["healthy"]) == (str(NOW), "4", "false")
    assert record["queues"] == "map[inference.high:9 inference.low:3]"
    assert json.loads(record["recovery"]) == {}
    assert 20 < flat.redis.ttl("asynq:workers:h:1:u") <= 30
    flat.do(clear)
    assert flat.everything() == {}


def test_members_whose_record_is_gone_are_removed_at_start_and_now_and_then(flat: Flat) -> None:
    async def beats(broker: FlatBroker) -> None:
        presence = FlatPresence(broker, flat.clock, Identity("h", 1, "u", NOW))
        await presence.beat(STATE)
        assert flat.redis.smembers("asynq:workers") == {b"h:1:u", b"alive"}
        flat.redis.delete("asynq:workers:alive")
        for _ in range(LOOK_EVERY - 1):
            await presence.beat(STATE)
            assert flat.redis.smembers("asynq:workers") == {b"h:1:u", b"alive"}
        await presence.beat(STATE)
        assert flat.redis.smembers("asynq:workers") == {b"h:1:u"}

    flat.redis.sadd("asynq:workers", "alive", "dead", "also dead")
    flat.redis.hset("asynq:workers:alive", "started", "1")
    flat.do(beats)


def test_where_a_sorted_set_of_workers_is_kept_the_worker_joins_it(flat: Flat) -> None:
    async def run(broker: FlatBroker) -> None:
        presence = FlatPresence(broker, flat.clock, Identity("h", 1, "u", NOW))
        await presence.beat(STATE)
        assert flat.everything()["asynq:workers"] == {"theirs": NOW, "h:1:u": NOW + 30}
        await presence.clear()

    flat.redis.zadd("asynq:workers", {"theirs": NOW})
    flat.do(run)
    assert flat.everything() == {"asynq:workers": {"theirs": NOW}}


def test_every_script_of_the_layout_compiles(flat: Flat) -> None:
    flat.do(lambda broker: broker.load_scripts())
    loaded = [script.sha for script in scripts.all_scripts("flat")]
    assert flat.redis.script_exists(*loaded) == [True] * len(loaded)
