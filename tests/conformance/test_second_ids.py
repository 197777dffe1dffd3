"""A second id of a task does not bring it back to life, in whichever place; no task is dropped on a mere suspicion."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from asynq_operations import AsynqClient
from runqy_agent.broker import keys
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange, Exchanged
from runqy_agent.broker.settle import Policy
from runqy_agent.demo.client import message
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.outcome import Failure, Outcome, Success, Unstarted
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

NOW = 1_926_323_681
QUEUE = "q"
NAMES = keys.queue_keys(QUEUE)
POLICY = Policy(store_results=True, retry_delay=lambda *_: 600.0)
SETS = ("scheduled", "retry", "archived", "completed")
LATER = NOW + 10**6


class Bench:
    """A queue and the steps of a worker."""

    def __init__(self, client: Any, server: RedisServer) -> None:
        self.redis = client
        self.clock = SetClock(NOW)
        self._address = RedisAddress("127.0.0.1", server.port)

    def do(self, step: Callable[[Broker], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            client = open_client(self._address)
            try:
                return await step(Broker(client, self.clock))
            finally:
                await client.aclose()

        return asyncio.run(run())

    def put(self, state: str | None, *places: str, score: float = LATER) -> None:
        """A task whose hash tells this state, and whose id is in these places."""
        fields: dict[Any, Any] = {"msg": message(QUEUE, b"{}", task_id="a").SerializeToString()}
        if state == "aggregating":
            fields["group"] = "group"
        self.redis.hset(NAMES.task("a"), mapping=fields | ({"state": state} if state else {}))
        for place in places:
            if place in {"pending", "active"}:
                self.redis.lpush(getattr(NAMES, place), "a")
            else:
                key = NAMES.group_prefix + "group" if place == "group" else getattr(NAMES, place)
                self.redis.zadd(key, {"a": score})

    def places(self) -> list[str]:
        found = [each for each in ("pending", "active") for _ in range(self.count(each))]
        found += [each for each in (*SETS, "lease") if self.redis.zscore(getattr(NAMES, each), "a") is not None]
        return found + (["group"] if self.redis.zscore(NAMES.group_prefix + "group", "a") is not None else [])

    def count(self, place: str) -> int:
        listed: list[bytes] = self.redis.lrange(getattr(NAMES, place), 0, -1)
        return listed.count(b"a")

    def state(self) -> str | None:
        found = self.redis.hget(NAMES.task("a"), "state")
        return None if found is None else str(found.decode())

    def exchange(self, take: int = 0, *finished: tuple[TakenTask, Outcome]) -> Exchanged:
        settled = [POLICY.settle(task, outcome, self.clock.now_ns()) for task, outcome in finished]
        answer: Exchanged = self.do(lambda broker: broker.exchange([Exchange(QUEUE, settled, take)]))[0]
        assert (answer.error, answer.refused, answer.not_taken) == (None, {}, "")
        return answer

    def recover(self) -> None:
        async def rounds(broker: Broker) -> None:
            recoverer = Recoverer(broker, self.clock, {QUEUE: POLICY})
            await recoverer.round()
            self.clock.advance(31)
            await recoverer.round()

        self.do(rounds)


@pytest.fixture
def bench(redis_client: redis.Redis, redis_server: RedisServer) -> Bench:
    return Bench(redis_client, redis_server)


ELSEWHERE = [(each, each) for each in SETS] + [("active", "lease"), ("active", "active"), ("aggregating", "group")]
elsewhere = pytest.mark.parametrize(("state", "place"), ELSEWHERE)


@elsewhere
def test_a_second_id_in_pending_is_dropped_and_its_task_stays_as_it_is(
    bench: Bench, state: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put(state, place, "pending")
    before = bench.redis.hgetall(NAMES.task("a"))
    answer = bench.exchange(2)
    assert (answer.taken, answer.dropped, answer.repeated) == ([], [], ["a"])
    assert bench.places() == [place]
    assert bench.redis.hgetall(NAMES.task("a")) == before
    assert "dropped 'a' from pending: a second id" in caplog.text


@pytest.mark.parametrize("state", [None, "pending", "of a later asynq", "", *SETS, "active", "aggregating"])
def test_an_id_in_pending_whose_task_is_nowhere_else_is_taken_whatever_the_hash_says(
    bench: Bench, state: str | None
) -> None:
    bench.put(state, "pending")
    (task,) = bench.exchange(1).taken
    assert (task.id, bench.state()) == ("a", "active")
    assert bench.places() == ["active", "lease"]


def test_two_ids_in_pending_are_one_run(bench: Bench) -> None:
    bench.put("pending", "pending", "pending", "pending")
    answer = bench.exchange(2)
    assert (len(answer.taken), answer.repeated) == (1, ["a"])
    assert bench.exchange(1).repeated == ["a"]  # it is active meanwhile
    assert bench.exchange(0, (answer.taken[0], Success(b"1"))).held == [True]
    bench.redis.lpush(NAMES.pending, "a")
    assert bench.exchange(1).repeated == ["a"]  # and completed now
    assert bench.places() == ["completed"]
    assert bench.redis.get(NAMES.processed) == b"1"


def test_a_second_id_of_a_task_that_was_done_is_dropped(bench: Bench) -> None:
    bench.put("pending", "pending", "pending")
    policy = Policy(late_stamps=True)
    task = bench.exchange(1).taken[0]
    task.message.retention, task.message.type = 0, QUEUE
    settled = policy.settle(task, Success(), bench.clock.now_ns())
    bench.do(lambda broker: broker.exchange([Exchange(QUEUE, [settled])]))
    assert bench.exchange(1).dropped == ["a"]
    assert bench.places() == []


@elsewhere
def test_a_second_id_in_active_is_dropped_by_adopt(bench: Bench, state: str, place: str) -> None:
    if state == "active":
        return  # then it is not a second one
    bench.put(state, place, "active")
    assert bench.do(lambda broker: broker.adopt(QUEUE)) == []
    assert bench.places() == [place]


@elsewhere
def test_a_second_id_with_a_lease_that_ended_is_dropped_by_the_recoverer(bench: Bench, state: str, place: str) -> None:
    if state == "active":
        return
    bench.put(state, place, "active")
    bench.redis.zadd(NAMES.lease, {"a": NOW - 100})
    bench.recover()
    assert bench.places() == [place]
    assert bench.state() == state
    assert not bench.redis.exists(NAMES.failed)


@pytest.mark.parametrize("state", [None, *SETS, "active", "aggregating", "of a later asynq"])
def test_a_task_of_active_that_is_nowhere_else_is_recovered_whatever_the_hash_says(
    bench: Bench, state: str | None
) -> None:
    bench.put(state, "active")
    bench.recover()
    assert bench.places() == ["retry"]
    assert bench.redis.get(NAMES.failed) == b"1"


def test_a_pending_task_that_somebody_left_in_active_too_is_pending_only(bench: Bench) -> None:
    bench.put("pending", "pending", "active")
    bench.recover()
    assert bench.places() == ["pending"]


@pytest.mark.parametrize("here", ["scheduled", "retry"])
@pytest.mark.parametrize(("state", "place"), [*ELSEWHERE, ("pending", "pending")])
def test_a_second_id_that_is_due_is_dropped_by_the_forwarder(bench: Bench, here: str, state: str, place: str) -> None:
    if place == here:
        return
    bench.put(state, place)
    bench.redis.zadd(getattr(NAMES, here), {"a": NOW - 1})
    bench.do(lambda broker: Forwarder(broker, [QUEUE]).round())
    assert bench.places() == [place]
    assert bench.state() == state


@pytest.mark.parametrize("state", [None, "active", "pending", "completed", "archived"])
@pytest.mark.parametrize("here", ["scheduled", "retry"])
def test_a_task_that_is_due_and_nowhere_else_is_forwarded_whatever_the_hash_says(
    bench: Bench, here: str, state: str | None
) -> None:
    bench.put(state, here, score=NOW - 1)
    bench.do(lambda broker: Forwarder(broker, [QUEUE]).round())
    assert (bench.places(), bench.state()) == (["pending"], "pending")


@pytest.mark.parametrize("here", ["completed", "archived"])
@pytest.mark.parametrize(("state", "place"), [*ELSEWHERE, ("pending", "pending")])
def test_a_second_id_whose_time_is_over_leaves_the_task_alone(bench: Bench, here: str, state: str, place: str) -> None:
    if place == here:
        return
    bench.put(state, place)
    bench.redis.zadd(getattr(NAMES, here), {"a": NOW - 1000})
    bench.do(lambda broker: Janitor(broker, [QUEUE], 60).round())
    assert bench.places() == [place]
    assert bench.state() == state


def test_a_pending_list_of_any_length_is_looked_through(bench: Bench) -> None:
    bench.put("pending", "pending", "active")
    bench.redis.lpush(NAMES.pending, *(f"other {number}" for number in range(2500)))
    bench.redis.rpush(NAMES.pending, *(f"another {number}" for number in range(2500)))
    assert bench.do(lambda broker: broker.adopt(QUEUE)) == []
    assert bench.count("active") == 0


@pytest.mark.parametrize("outcome", [Success(b"1"), Failure("x"), Unstarted()], ids=["success", "failure", "requeue"])
def test_a_task_whose_id_is_twice_in_active_ends_once(bench: Bench, outcome: Outcome) -> None:
    AsynqClient(bench.redis, bench.clock).put(message(QUEUE, b"{}", task_id="a"))
    (task,) = bench.exchange(1).taken
    bench.redis.lpush(NAMES.active, "a")
    assert bench.exchange(0, (task, outcome)).held == [True]
    ended = [each for each in bench.places() if each != "active"]
    bench.recover()
    assert bench.places() == ended
    counted = bench.redis.get(NAMES.processed)
    assert counted == (None if isinstance(outcome, Unstarted) else b"1")
