"""Whatever numbers a task carries, it comes to an end or waits where it can be found, and so do all others.

Numbers are drawn for every field of the message, of the hash, and for the scores of the sets, and a worker's loops go
on over them: those that find, take, run, tell of, renew, finish, forward, recover and delete tasks.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.flat import FlatBroker, FlatDefaults
from runqy_agent.broker.message import MOST_SECONDS, stored_nanoseconds, stored_seconds
from runqy_agent.broker.presence import Identity, Presence, WorkerState
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.loops.deadlines import Deadlines
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.leases import Leases
from runqy_agent.loops.processor import Processor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.loops.route import Route
from runqy_agent.loops.selection import WeightedShares
from runqy_agent.outcome import Failure, Outcome, Success
from runqy_agent.process.runner import RunnerHealth

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from runqy_agent.broker.keys import Layout
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer
    from runqy_agent.process.runner import Runner, Sink

QUEUE = "q.default"
INNOCENT = ("i1", "i2", "i3")
PATIENCE = 60.0
HUGE = "1" + "0" * 400
INT32, INT64 = 2**31 - 1, 2**63 - 1
STAMPS = ("ttl_completed", "ttl_archived", "pending_timeout", "active_timeout", "pending_since")
PLAIN = ("retry", "retried", "max_retry", "timeout", "deadline")
PLACES = ("pending", "active", "scheduled", "retry", "completed", "archived")
IN_MESSAGE = {
    **dict.fromkeys(("retry", "retried"), INT32),
    **dict.fromkeys(("timeout", "deadline", "retention", "last_failed_at", "completed_at"), INT64),
}

ODD_TEXTS = [
    *("", "0", "-0", "-1", "1.5", "1e3", "nan", "inf", "-inf", " 7 ", "0x10", "1_0", "٣", "\x00", "9" * 19, "9" * 5000),
    *(HUGE, f"-{HUGE}", str(INT64), str(INT64 + 1), str(MOST_SECONDS), str(MOST_SECONDS + 1), "1" + "0" * 30),
]
odd_texts = st.sampled_from(ODD_TEXTS)
texts = st.one_of(odd_texts, st.integers().map(str), st.floats().map(str), st.text(max_size=5))
stamps = st.dictionaries(st.sampled_from(STAMPS + PLAIN), texts, max_size=5)
scores = st.one_of(
    st.sampled_from([float("inf"), float("-inf"), 0.0, -1.0, 1e300, -1e300, 2.0**63, 1e12, 1.8e18]),
    st.floats(allow_nan=False),
)


def integers(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from([0, 1, -1, most, -most - 1, most - 1, 60]), st.integers(-most - 1, most))


messages = st.fixed_dictionaries({}, optional={name: integers(most) for name, most in IN_MESSAGE.items()})
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        *(Success(b"1"), Failure("x"), Failure("x", retry=False)),
        *(Failure("x", delay=delay) for delay in (float("nan"), float("inf"), -1e300, 1e300)),
    ]
)


class Waiting:
    """Begins nothing; the test ends each task."""

    name, ready = "q", True
    health = RunnerHealth("ready")
    sink: Sink

    def __init__(self) -> None:
        self.begun: list[TakenTask] = []

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    def run(self, tasks: Sequence[TakenTask]) -> None:
        self.begun += tasks

    def abandon(self, task: TakenTask) -> None:
        self.begun = [each for each in self.begun if each is not task]


@dataclass
class Hostile:
    """A task with odd numbers."""

    fields: dict[str, int]
    stamps: dict[str, str]
    place: str
    score: float
    outcome: Outcome


class Crew:
    """Every loop of a worker, on a real Redis."""

    def __init__(self, client: Any, server: RedisServer, layout: Layout) -> None:
        self.redis = client
        self.names = keys.queue_keys(QUEUE, layout)
        self.layout = layout
        self._address = RedisAddress("127.0.0.1", server.port)

    def put(self, task_id: str, hostile: Hostile | None = None) -> None:
        stored = TaskMessage(id=task_id, type=QUEUE, queue=QUEUE, payload=b"{}", retry=3, retention=600)
        values: dict[Any, Any] = {"state": "pending"}
        if hostile is not None:
            for name, value in hostile.fields.items():
                setattr(stored, name, value)
            values |= hostile.stamps
            values["state"] = hostile.place
        if self.layout == "asynq":
            values["msg"] = stored.SerializeToString()
        else:
            values = {"type": QUEUE, "payload": "{}", **values}
        self.redis.hset(self.names.task(task_id), mapping=values)
        place = hostile.place if hostile else "pending"
        if place == "pending":
            self.redis.lpush(self.names.pending, task_id)
        elif place == "active":
            if self.layout == "asynq":
                self.redis.lpush(self.names.active, task_id)
            self.redis.zadd(self.names.lease, {task_id: hostile.score if hostile else 0})
        else:
            self.redis.zadd(getattr(self.names, place), {task_id: hostile.score if hostile else 0})

    async def work(self, outcome: Outcome) -> None:
        """All loops, until the innocent tasks have been run and written."""
        client, clock, runner = open_client(self._address), Clock(), Waiting()
        made = FlatBroker(client, clock, FlatDefaults()) if self.layout == "flat" else Broker(client, clock)
        policy = Policy(store_results=True)
        route = Route(QUEUE, 1, cast("Runner", runner), policy)
        processor = Processor(made, clock, [route], len(INNOCENT) + 1, WeightedShares([(QUEUE, 1)]))
        presence = Presence(made, clock, Identity("h", 1, "u", clock.now()))
        others = [
            Recoverer(made, clock, {QUEUE: policy}),
            Forwarder(made, [QUEUE]),
            Janitor(made, [QUEUE], 3600),
            Deadlines(clock, processor),
            Leases(made, clock, processor),
        ]
        for loop in others:
            await loop.round()
        task = processor.start()
        try:
            async with asyncio.timeout(PATIENCE) if hasattr(asyncio, "timeout") else _no_limit():
                while not self.innocent_are_done():
                    assert not task.done(), "the processor has ended"
                    state = WorkerState("running", 4, {QUEUE: INT32}, strict_priority=False, running=processor.running)
                    if self.layout == "asynq":
                        await presence.beat(state)
                    for loop in others:
                        await loop.round()
                    for each in list(runner.begun):
                        runner.begun.remove(each)
                        processor.finished(each, Success(b"1") if each.id in INNOCENT else outcome)
                    processor.wake()
                    await asyncio.sleep(0.001)
            await processor.drain(PATIENCE)
        finally:
            await processor.stop()
            await client.aclose()

    def innocent_are_done(self) -> bool:
        return all(self.redis.zscore(self.names.completed, each) is not None for each in INNOCENT)

    def places_of(self, task_id: str) -> list[str]:
        found = [place for place in PLACES[2:] if self.redis.zscore(getattr(self.names, place), task_id) is not None]
        if task_id.encode() in self.redis.lrange(self.names.pending, 0, -1):
            found.append("pending")
        if self.redis.zscore(self.names.lease, task_id) is not None:
            found.append("active")
        return found


class _no_limit:  # noqa: N801  # Python 3.10 has no asyncio.timeout
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


OVERFLOW = Hostile({}, {"active_timeout": HUGE, "pending_since": HUGE}, "pending", 0.0, Success(b"1"))
FAR = Hostile({}, {"active_timeout": "1" + "0" * 30}, "pending", 0.0, Success(b"1"))
NEGATIVE = Hostile({"retried": -INT32 - 1, "timeout": -INT64}, {"pending_timeout": "nan"}, "retry", 0.0, Failure("x"))
ENDLESS = Hostile({"deadline": INT64, "timeout": INT64}, {}, "active", float("inf"), Failure("x"))


@pytest.mark.parametrize("layout", ["asynq", "flat"])
@settings(
    max_examples=int(os.environ.get("RUNQY_EXAMPLES") or 20),
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(hostile=OVERFLOW)
@example(hostile=FAR)
@example(hostile=NEGATIVE)
@example(hostile=ENDLESS)
@given(hostile=st.builds(Hostile, messages, stamps, st.sampled_from(PLACES), scores, outcomes))
def test_a_task_with_any_numbers_harms_nobody_and_is_accounted_for(
    redis_client: redis.Redis, redis_server: RedisServer, hostile: Hostile, layout: Layout
) -> None:
    redis_client.flushall()
    crew = Crew(redis_client, redis_server, layout)
    crew.put("hostile", hostile)
    for task_id in INNOCENT:
        crew.put(task_id)
    asyncio.run(crew.work(hostile.outcome))
    places = crew.places_of("hostile")
    if redis_client.exists(crew.names.task("hostile")):
        assert len(places) == 1, places
    else:  # it was finished without a trace, or its time among those that have ended was over
        assert places == []


@given(texts)
def test_a_stored_number_is_within_its_bounds_or_none(text: str) -> None:
    seconds = stored_seconds(text.encode())
    assert seconds is None or 0 <= seconds <= MOST_SECONDS
    assert 0 <= stored_nanoseconds(text.encode()) < (MOST_SECONDS + 1) * 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0), ("60", 60), (" 60 ", 60), ("060", 60), (HUGE, MOST_SECONDS), (str(MOST_SECONDS), MOST_SECONDS)),
        *((str(MOST_SECONDS - 1), MOST_SECONDS - 1), ("9" * 11, 99_999_999_999), ("5" + "0" * 11, MOST_SECONDS)),
        *(("", None), ("-1", None), ("1.0", None), ("nan", None), ("٣", None), ("1_0", None)),
    ],
)
def test_a_number_of_seconds_is_read_as_what_it_means(text: str, seconds: int | None) -> None:
    assert stored_seconds(text.encode()) == seconds


def test_a_moment_beyond_all_clocks_is_unknown() -> None:
    assert stored_nanoseconds(b"1926323681000000000") == 1926323681000000000
    assert stored_nanoseconds(HUGE.encode()) == stored_nanoseconds(b"-5") == stored_nanoseconds(None) == 0
