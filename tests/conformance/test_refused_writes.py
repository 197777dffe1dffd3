"""Redis does not roll a script back. Whichever single write of whichever step it refuses, no task is lost by it.

Each scenario is lived through once to learn which writes there are; then once for each of them, with just that one
refused: by the script's own wrapper, by a user's permissions, and by a key of another type. After the refusal every
task is where it is found again; once it is lifted, all ends as if nothing had been.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ResponseError

from asynq_operations import unique_key
from refusing_redis import JOURNAL, WRITES, RefusingRedis, all_commands, writes_of
from runqy_agent.broker import broker as broker_module
from runqy_agent.broker import keys, scripts
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.flat import FlatBroker, FlatDefaults
from runqy_agent.broker.flat_presence import FlatPresence
from runqy_agent.broker.presence import Identity, Presence, WorkerState
from runqy_agent.broker.settle import Policy, Settled
from runqy_agent.broker.watch import Watch
from runqy_agent.config.settings import Secret
from runqy_agent.demo.client import message
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from set_clock import SetClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from runqy_agent.broker.keys import Layout
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

Refusal = tuple["Callable[[World], None]", "Callable[[World], None]"]
"""How it begins, and how it is lifted."""

NOW = 1_926_323_681
QUEUE = "q.default"
POLICIES = {
    layout: Policy(store_results=True, retry_delay=lambda *_: 60.0, late_stamps=layout == "asynq")
    for layout in ("asynq", "flat")
}
USER: dict[str, Any] = {"username": "few", "password": Secret("pw")}
PLACES = ("pending", "active", "scheduled", "retry", "archived", "completed")
ARCHIVED = 3
ASIDE = "test:aside"
IDENTITY = Identity("h", 1, "u", NOW)
STATE = WorkerState("running", 4, {QUEUE: 1}, strict_priority=False)


@dataclass
class World:
    """A queue, and the broker whose step is refused.

    Attributes:
        unwritten: outcomes whose writing was refused.
        taken: what was taken so far.
        ends: for each task where it is to end: a place, "gone", or "active".
        counted: how many processed and failed there are to be in the end.
        twice: tasks that a second id has brought to two places.
    """

    redis: Any
    broker: Broker
    clock: SetClock
    layout: Layout
    unwritten: list[Settled] = field(default_factory=list)
    taken: list[TakenTask] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    counted: tuple[int, int] = (0, 0)
    twice: set[str] = field(default_factory=set)

    @property
    def names(self) -> keys.QueueKeys:
        return keys.queue_keys(QUEUE, self.layout)

    def task(self, task_id: str, place: str, ends: str, score: float = NOW - 100, **fields: Any) -> None:
        """Put a task there, as a client or an earlier step would have done."""
        self.ends[task_id] = ends
        lock, group = fields.pop("lock", False), fields.pop("group", "")
        stored = message(QUEUE, task_id.encode(), task_id=task_id, **fields)
        values: dict[Any, Any] = {"state": place, "pending_since": NOW * 10**9 - 1}
        if lock:
            stored.unique_key = unique_key(QUEUE, stored.type, stored.payload)
            values["unique_key"] = stored.unique_key
            self.redis.set(stored.unique_key, task_id)
        if group:
            values["group"] = stored.group_key = group
        self.redis.hset(self.names.task(task_id), mapping=values | {"msg": stored.SerializeToString()})
        if place == "pending":
            self.redis.lpush(self.names.pending, task_id)
        elif place == "active":
            self.redis.lpush(self.names.active, task_id)
        else:
            self.redis.zadd(getattr(self.names, place), {task_id: score})

    async def take(self, number: int) -> None:
        (answer,) = await self.broker.exchange([Exchange(QUEUE, take=number)], self.broker.new_lease())
        self.taken += answer.taken

    def ended(self, outcome: Outcome) -> None:
        """The oldest task that was taken has ended so."""
        self.unwritten.append(POLICIES[self.layout].settle(self.taken.pop(0), outcome, self.clock.now_ns()))

    async def exchange(self, take: int) -> None:
        """As the processor does, whatever Redis says."""
        sent = self.unwritten
        (answer,) = await self.broker.exchange([Exchange(QUEUE, sent, take)], self.broker.new_lease())
        if answer.error is not None:
            return
        self.taken += answer.taken
        assert not answer.dropped
        assert not answer.repeated
        self.unwritten = [sent[at] for at in answer.refused]
        assert all(held or at in answer.refused for at, held in enumerate(answer.held))

    def places(self, task_id: str) -> list[str]:
        found = []
        for place in PLACES:
            key = getattr(self.names, place)
            if self.redis.type(key) == b"list":
                found += [place] * self.redis.lrange(key, 0, -1).count(task_id.encode())
            elif self.redis.type(key) == b"zset" and self.redis.zscore(key, task_id) is not None:
                found.append(place)
        if not found and self.redis.type(self.names.lease) == b"zset" and self.redis.zscore(self.names.lease, task_id):
            found.append("lease alone")  # from where a recoverer brings it back to active
        group = f"{self.names.group_prefix}group"
        if self.redis.type(group) == b"zset" and self.redis.zscore(group, task_id) is not None:
            found.append("group")
        return found

    def check_found_again(self, during: str) -> None:
        """Every task is in exactly one place, and whole there, or it has come to its end."""
        for task_id, ends in self.ends.items():
            found = self.places(task_id)
            stored: Any = self.redis.hgetall(self.names.task(task_id))
            if ends == "gone" and (not found or b"msg" not in stored):
                continue
            if task_id not in self.twice:
                assert len(found) == 1, f"{during}: {task_id} is in {found}"
            assert TaskMessage.FromString(stored[b"msg"]).id == task_id, f"{during}: {task_id}"
            if "completed" in found:
                assert stored[b"result"] == b"1", f"{during}: {task_id}"

    def check_ended(self, during: str) -> None:
        """Everything has come to its end, once, with its result, and is counted once."""
        assert self.unwritten == [], during
        leases = {task_id.decode() for task_id in self.redis.zrange(self.names.lease, 0, -1)}
        for task_id, ends in self.ends.items():
            wanted = [] if ends == "gone" else [ends]
            assert self.places(task_id) == wanted, f"{during}: {task_id}"
            assert (task_id in leases) == (ends == "active"), f"{during}: {task_id}"
            stored: Any = self.redis.hgetall(self.names.task(task_id))
            if ends == "gone":
                assert b"msg" not in stored, f"{during}: {task_id}"
                assert not stored or self.redis.ttl(self.names.task(task_id)) > 0, f"{during}: {task_id}"
                continue
            wanted_state = "aggregating" if ends == "group" else ends
            assert stored[b"state"].decode() == wanted_state, f"{during}: {task_id}"
            stored_message = TaskMessage.FromString(stored[b"msg"])
            assert stored_message.retried == (1 if ends == "retry" and stored_message.error_msg else 0), during
            if ends == "completed":
                assert stored[b"result"] == self.redis.get(keys.RESULT_PREFIX + task_id) == b"1", during
            lock = stored_message.unique_key
            held = lock and self.redis.get(lock) == task_id.encode()
            assert bool(held) == bool(lock and ends not in {"completed", "gone"}), f"{during}: {task_id}"
        counts = tuple(int(self.redis.get(name) or 0) for name in (self.names.processed, self.names.failed))
        assert counts == self.counted, during
        day = keys.utc_day(NOW)
        of_day = tuple(int(self.redis.get(f"{name}:{day}") or 0) for name in (self.names.processed, self.names.failed))
        assert of_day == self.counted, during


class Scenario:
    """A step, and what there is before it."""

    async def prepare(self, world: World) -> None:
        """Bring the world to where the step begins."""
        raise NotImplementedError

    async def step(self, world: World) -> None:
        """Take the step, as the worker does."""
        raise NotImplementedError

    async def repeat(self, world: World) -> None:
        """What the worker does afterwards, once nothing is refused any more."""
        await self.step(world)
        await self.step(world)


class Finishing(Scenario):
    """Every outcome there is, and taking, in one batch."""

    takes = 2

    async def prepare(self, world: World) -> None:
        for task_id, ends, fields in (
            ("done", "gone", {"retention": 0}),
            ("locked", "gone", {"retention": 0, "lock": True}),
            ("complete", "completed", {"lock": True}),
            ("complete too", "completed", {}),
            ("retry", "retry", {"lock": True}),
            ("archive", "archived", {}),
            ("requeue", "active", {}),
            ("next", "active", {}),
        ):
            world.task(task_id, "pending", ends, **fields)
        await world.take(7)
        outcomes: list[Outcome] = [Revoked(), Revoked(), Success(b"1"), Success(b"1"), Failure("x")]
        for outcome in [*outcomes, Failure("x", retry=False), Unstarted()]:
            world.ended(outcome)
        world.counted = (6, 2)

    async def step(self, world: World) -> None:
        await world.exchange(self.takes)


class Trimming(Scenario):
    """The archive is full of old ones and of more than it may hold."""

    async def prepare(self, world: World) -> None:
        world.task("old", "archived", "gone", NOW - broker_module.ARCHIVE_SECONDS - 1)
        for number in range(ARCHIVED):
            world.task(f"young {number}", "archived", "archived" if number else "gone", NOW - 50 + number)
        world.task("archive", "pending", "archived")
        await world.take(1)
        world.ended(Failure("x", retry=False))
        world.counted = (1, 1)

    async def step(self, world: World) -> None:
        await world.exchange(0)

    async def repeat(self, world: World) -> None:
        await self.step(world)
        world.task("again", "pending", "archived")  # the archive is trimmed whenever something is archived
        world.ends["young 1"] = "gone"
        await world.take(1)
        world.ended(Failure("x", retry=False))
        world.counted = (2, 2)
        await self.step(world)


class Forwarding(Scenario):
    """Due tasks of both sets, one of a group."""

    async def prepare(self, world: World) -> None:
        world.task("scheduled", "scheduled", "pending")
        world.task("retry", "retry", "pending")
        world.task("later", "retry", "retry", NOW + 5)
        world.task("grouped", "scheduled", "group" if world.layout == "asynq" else "pending", group="group")

    async def step(self, world: World) -> None:
        await world.broker.forward(QUEUE)


class Recovering(Scenario):
    """A lease that ended long ago, an id without a lease, one with a lease that never ends, and others' remains."""

    async def prepare(self, world: World) -> None:
        for task_id, ends, fields in (("expired", "retry", {}), ("last", "archived", {"max_retry": 0})):
            world.task(task_id, "pending", ends, **fields)
        await world.take(2)
        world.taken.clear()
        world.clock.advance(90)
        world.counted = (2, 2)
        never = NOW * 1000
        world.task("endless", "pending", "retry")
        await world.take(1)
        world.taken.clear()
        world.redis.zadd(world.names.lease, {"endless": never})
        world.counted = (3, 3)
        if world.layout == "flat":
            world.redis.zadd(world.names.active, {"no task": NOW - 1})
        else:
            world.task("crashed", "active", "pending")
            world.redis.hset(world.names.task("crashed"), "state", "pending")
            world.task("elsewhere", "completed", "completed", NOW + 10**6)
            world.redis.hset(world.names.task("elsewhere"), "result", "1")
            world.redis.set(keys.RESULT_PREFIX + "elsewhere", "1")
            world.redis.lpush(world.names.active, "elsewhere", "no task")
            world.task("elsewhere too", "retry", "retry", NOW + 10**6)
            world.redis.lpush(world.names.active, "elsewhere too")
            world.twice |= {"elsewhere", "elsewhere too"}
            world.redis.zadd(world.names.lease, {"astray": NOW - 1, "elsewhere": NOW - 1})
            world.task("astray", "active", "retry")
            world.redis.lrem(world.names.active, 0, "astray")
            world.counted = (4, 4)

    async def step(self, world: World) -> None:
        recoverer = Recoverer(world.broker, world.clock, {QUEUE: POLICIES[world.layout]})
        await recoverer.round()
        world.clock.advance(31)
        await recoverer.round()

    async def repeat(self, world: World) -> None:
        await super().repeat(world)
        await world.exchange(0)  # what could not be counted is counted with the next one


class Expiring(Scenario):
    """Completed and archived tasks whose time is over, with what the server keeps for them."""

    async def prepare(self, world: World) -> None:
        for place in ("completed", "archived"):
            world.task(f"{place} over", place, "gone", lock=place == "archived")
            world.redis.hset(world.names.task(f"{place} over"), "result", "1")
            world.redis.hset(keys.LOOKUP_PREFIX + f"{place} over", "queue", QUEUE)
        if world.layout == "asynq":
            world.task("twice", "pending", "pending")
            world.redis.zadd(world.names.completed, {"twice": NOW - 5})
            world.redis.hset(world.names.task("twice"), "result", "1")
            world.twice.add("twice")

    async def step(self, world: World) -> None:
        world.broker.late_stamps = world.layout == "asynq"
        await world.broker.expire_completed(QUEUE)
        await world.broker.expire_archived(QUEUE, 60, 0)


class Extending(Scenario):
    """Leases are renewed."""

    async def prepare(self, world: World) -> None:
        world.task("held", "pending", "active")
        await world.take(1)
        world.clock.advance(10)

    async def step(self, world: World) -> None:
        assert await world.broker.extend(QUEUE, world.taken) == []


class Showing(Scenario):
    """What the worker tells of itself, and the places from which it watches a queue."""

    async def prepare(self, world: World) -> None:
        world.task("held", "pending", "active")
        await world.take(1)
        if world.layout == "flat":
            world.redis.sadd(keys.WORKERS, "gone")

    async def step(self, world: World) -> None:
        kind = FlatPresence if world.layout == "flat" else Presence
        presence = kind(world.broker, world.clock, IDENTITY)
        state = WorkerState("running", 4, {QUEUE: 1}, strict_priority=False, running=world.taken)
        await presence.beat(state)
        await presence.write_output(["{}"], keep=1)
        if world.layout == "flat":
            world.redis.delete(keys.WORKERS)
            world.redis.zadd(keys.WORKERS, {"theirs": NOW})
            await presence.beat(state)
        first, second = (Watch(world.broker, world.broker.client, who) for who in ("a", "b"))
        for watch in (first, second):
            await watch.enter([QUEUE])
        await first.leave([QUEUE], "work")
        await second.enter([QUEUE])


SCENARIOS = (Finishing, Trimming, Forwarding, Recovering, Expiring, Extending, Showing)
LAYOUTS = ("asynq", "flat")


@dataclass
class Lab:
    """Lives through scenarios, each in an empty Redis."""

    redis: Any
    server: RedisServer
    refusing: RefusingRedis | None = None

    def live(
        self, scenario: Any, layout: Layout, refuse: Callable[[World], None], lift: Callable[[World], None], what: str
    ) -> None:
        async def run() -> None:
            self.redis.flushall()
            client = open_client(RedisAddress("127.0.0.1", self.server.port, **USER))
            clock = SetClock(NOW)
            made = Broker(client, clock) if layout == "asynq" else FlatBroker(client, clock, FlatDefaults())
            world = World(self.redis, made, clock, layout)
            try:
                await scenario.prepare(world)
                self.redis.delete(JOURNAL)
                refuse(world)
                await _whatever_redis_says(scenario.step(world))
                lift(world)
                world.check_found_again(f"{layout}, {what} is refused")
                await scenario.repeat(world)
                world.check_ended(f"{layout}, {what} was refused")
            finally:
                await client.aclose()

        asyncio.run(run())


async def _whatever_redis_says(step: Awaitable[None]) -> None:
    with suppress(ResponseError):
        await step


@pytest.fixture
def lab(redis_client: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(broker_module, "ARCHIVE_SIZE", ARCHIVED)
    allow(redis_client)
    return Lab(redis_client, redis_server)


def allow(client: Any, *less: str) -> None:
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", "+@all", *less)


def nothing(_: World) -> None: ...


def refuse_of(refusing: RefusingRedis, command: str, key: str) -> Callable[[World], None]:
    return lambda _: refusing.refuse(command, key)


def lift_of(refusing: RefusingRedis) -> Callable[[World], None]:
    return lambda _: refusing.lift()


def in_turn(
    lab: Lab,
    scenario: Any,
    layout: Layout,
    refusals: dict[str, tuple[Callable[[World], None], Callable[[World], None]]],
) -> None:
    """Live through a scenario once for each refusal, and tell of all that went wrong."""
    assert refusals
    failures = []
    for what, (refuse, lift) in refusals.items():
        try:
            lab.live(scenario(), layout, refuse, lift, what)
        except AssertionError as error:  # noqa: PERF203  # all that went wrong is told at once
            failures.append(str(error).partition("\n")[0])
    assert not failures, "\n".join(failures)


def writes_in(lab: Lab, scenario: Any, layout: Layout) -> list[tuple[str, str, str]]:
    """Script, command and key of every write of a scenario."""
    with pytest.MonkeyPatch.context() as patch:
        refusing = RefusingRedis(lab.redis, patch)
        lab.live(scenario(), layout, nothing, nothing, "nothing")
        return refusing.journal()


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


@in_both_layouts
@each_scenario
def test_whichever_single_write_of_a_step_is_refused_no_task_is_lost_or_counted_twice(
    lab: Lab, scenario: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = {(command, key): None for _, command, key in writes_in(lab, scenario, layout)}
    refusing = RefusingRedis(lab.redis, monkeypatch)
    refusals = {f"{command} {key}": (refuse_of(refusing, command, key), lift_of(refusing)) for command, key in writes}
    in_turn(lab, scenario, layout, refusals)


@in_both_layouts
@each_scenario
def test_whichever_command_a_user_may_no_longer_give_no_task_is_lost_or_counted_twice(
    lab: Lab, scenario: Any, layout: Layout
) -> None:
    def without(command: str) -> Callable[[World], None]:
        return lambda world: allow(world.redis, f"-{command.lower()}")

    used = {script for script, _, _ in writes_in(lab, scenario, layout)}
    commands = sorted(all_commands(*(scripts.load(name, layout) for name in used)))
    in_turn(lab, scenario, layout, {f"-{each}": (without(each), lambda world: allow(world.redis)) for each in commands})


@in_both_layouts
@each_scenario
def test_whichever_key_is_of_another_type_no_task_is_lost_or_counted_twice(
    lab: Lab, scenario: Any, layout: Layout
) -> None:
    """Those of the queue: whoever overwrites the hash of a task, or a lock, has deleted it."""
    names = keys.queue_keys(QUEUE, layout)
    own = (names.task_prefix, f"{names.prefix}unique:")
    written = {key for _, _, key in writes_in(lab, scenario, layout)}
    shared = {key for key in written if key.startswith(names.prefix) and not key.startswith(own)}

    def spoil(key: str, world: World) -> None:
        if world.redis.exists(key):
            world.redis.rename(key, ASIDE)
        if key == world.names.processed or key.startswith((world.names.processed, world.names.failed)):
            world.redis.set(key, "junk")
        else:
            world.redis.xadd(key, {"of": "another type"})

    def mend(key: str, world: World) -> None:
        world.redis.delete(key)
        if world.redis.exists(ASIDE):
            world.redis.rename(ASIDE, key)

    spoilt: dict[str, Refusal] = {key: (partial(spoil, key), partial(mend, key)) for key in sorted(shared)}
    if spoilt:  # some write to keys of single tasks and workers only
        in_turn(lab, scenario, layout, spoilt)


@in_both_layouts
def test_every_write_of_every_script_has_its_turn(lab: Lab, layout: Layout) -> None:
    made = {(script, command) for scenario in SCENARIOS for script, command, _ in writes_in(lab, scenario, layout)}
    written = {
        (script.name, command)
        for script in scripts.all_scripts(layout)
        if script.name != "probe"  # it is there to try commands
        for command in writes_of(script.name, layout)
    }
    never = {("forward", "ZADD"), ("exchange", "EXPIRE")} if layout == "flat" else set()  # no groups, no look-up keys
    assert written - made == never, "no scenario makes these writes"
    assert {command for _, command in written} <= WRITES
    reads = {"EXISTS", "GET", "HGET", "HMGET", "LLEN", "LRANGE", "SRANDMEMBER", "TIME", "TYPE", "ZCARD", "ZRANGE"}
    reads |= {"ZRANGEBYSCORE", "ZSCORE"}
    assert all_commands(*scripts.all_scripts(layout)) <= WRITES | reads, "does it write?"
