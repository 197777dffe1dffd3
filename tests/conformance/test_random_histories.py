"""Whatever clients, two workers, their recoverers and an inspector do in whatever order, the queues stay in order.

Hypothesis draws histories. A model of asynq's rules (``queue_model.py``) lives through the same history, and after each
step every key of Redis is compared with it; besides, the promises are checked that hold in any state.
``RUNQY_EXAMPLES=2000`` draws so many histories, and other ones in every run.
"""

from __future__ import annotations

import asyncio
import base64
import os
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from asynq_operations import AsynqClient, AsynqInspector, RefusedError, unique_key
from drawing import Draw, Drawing, among, chance, pair, some
from queue_model import RETRY_DELAY, QueueModel, Task, hash_of, places
from runqy_agent.broker import broker as broker_module
from runqy_agent.broker import keys, watch
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.broker import LEASE_SECONDS, Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange, Exchanged
from runqy_agent.broker.settle import LEASE_EXPIRED, Policy, Settled
from runqy_agent.broker.watch import Watch
from runqy_agent.loops.doubts import Doubts
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from set_clock import SetClock
from vectors_kit import differences, dump

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.demo.redis_server import RedisServer

QUEUES = ("video.high", "video.low")
POLICIES = {
    "video.high": Policy(
        store_results=True, ttl_completed=3600, ttl_archived=7200, retry_delay=lambda *_: float(RETRY_DELAY)
    ),
    "video.low": Policy(max_retry=1, ttl_archived=0, retry_delay=lambda *_: float(RETRY_DELAY)),
}
IDS = ("a", "b", "c", "d", "e", "f")
ARCHIVE_SIZE = 3
BEGIN = 1_926_323_681.25
LONG_MS = 3_600_000
LOCK_SECONDS = 5000
DAY = 24 * 3600
MANY = 6
"""So many tasks are worth removing."""
FORMER = 6
"""How many tasks a worker remembers that it held before."""
STEP_BYTES = 20
"""Enough for the step with the most arguments."""
PATIENCE = 140
"""Seconds that a history may take: Redis counts lives down meanwhile. The shortest life that is looked at is 300 s."""
FIELDS = ("ttl_completed", "ttl_archived", "pending_timeout", "active_timeout")

queues = among(*QUEUES)
workers = among(0, 1)
picks = among(*range(12))
"""One of those at hand, counted round and round."""
moments = among(0.3, 1.0, 5.0, 16.0, 29.0, 30.0, 31.0, 62.0, 62.0, 3600.0, DAY, 91.0 * DAY)
locks = among(0, 0, LOCK_SECONDS)
stamps = some(pair(among(*FIELDS), among(0, 62)), most=2)
outcomes = among(
    Success(),
    Success(b'{"a": 1}'),
    Failure("broken"),
    Failure("broken", delay=0),
    Failure("broken", delay=100),
    Failure("given up", retry=False),
    Failure("busy", counted=False, delay=0),
    Revoked(),
    Unstarted(),
)
endings = pair(picks, outcomes)


def messages(draw: Draw) -> TaskMessage:
    """What a client may send."""
    return TaskMessage(
        type="video:cut",
        payload=among(b"1", b"2")(draw),
        id=among(*IDS)(draw),
        queue=queues(draw),
        retry=draw.below(3),
        timeout=among(0, 60)(draw),
        deadline=among(0, int(BEGIN) + 500)(draw),
        retention=among(0, 62)(draw),
        headers=among({}, {"trace": "7"})(draw),
    )


Method = TypeVar("Method", bound="Callable[..., None]")


class LossyBroker(Broker):
    """One whose replies are thrown away, if that is asked for, after Redis has done everything.

    Its leases are as unlike as those of a real one, but the same whenever a history is lived through again.
    """

    loses = False
    leases = 0
    fraction = 0

    def new_lease(self) -> float:
        LossyBroker.leases += 1
        return int(self._clock.now()) + LEASE_SECONDS + self.fraction / 16 + (LossyBroker.leases % 4096) / 65536

    async def _execute(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        replies = await super()._execute(commands)
        if self.loses:
            raise RedisConnectionError("the reply was lost")
        return replies


@dataclass(eq=False)
class Claim:
    """A task that a worker holds, or held, or believes to hold.

    Attributes:
        taken: what the broker gave.
        holder: the model's number of that taking.
        outcome: how its run ended, once that is decided.
        settled: the same, as it is sent: again and again, if no reply comes.
    """

    taken: TakenTask
    holder: int
    outcome: Outcome | None = None
    settled: Settled | None = None


@dataclass
class Hands:
    """One worker.

    Attributes:
        claims: what it believes to hold.
        former: what it held before; it may write for such a task once more, which must change nothing.
        lost_takings: for the exchanges whose replies were lost: queue, and lease and id → the model's number.
    """

    name: str
    broker: LossyBroker
    recoverer: Recoverer
    watch: Watch
    claims: list[Claim] = field(default_factory=list)
    former: list[Claim] = field(default_factory=list)
    doubts: Doubts = field(default_factory=Doubts)
    lost_takings: dict[tuple[str, str], int] = field(default_factory=dict)

    def drop(self, claim: Claim) -> None:
        """It is over, and remembered for a while."""
        if claim in self.claims:
            self.claims.remove(claim)
            self.former = [*self.former, claim][-FORMER:]


STEPS: list[tuple[str, dict[str, Drawing]]] = [("nothing", {})]
"""What may happen: names of methods of ``History``, each as often as it shall be drawn, and their arguments."""


def step(often: int, **arguments: Drawing) -> Callable[[Method], Method]:
    """A method is something that may happen in a history."""

    def register(method: Method) -> Method:
        STEPS.extend([(method.__name__, arguments)] * often)
        return method

    return register


class History:
    """One history. A step for which there is no occasion does nothing."""

    def __init__(self, client: redis.Redis, address: RedisAddress, loop: asyncio.AbstractEventLoop) -> None:
        LossyBroker.leases = 0
        self.redis: Any = client
        self.loop = loop
        self.clock = SetClock(BEGIN)
        self.client = AsynqClient(client, self.clock)
        self.inspector = AsynqInspector(client, self.clock)
        self.model = QueueModel(self.clock, POLICIES, ARCHIVE_SIZE)
        self.connections = [open_client(address) for _ in range(2)]
        # With every script known to Redis, each step is one round trip, and its reply the one that is lost.
        self.wait(Broker(self.connections[0], self.clock).load_scripts())
        self.hands = [self.new_hands(f"w{number}", at) for number, at in enumerate(self.connections)]

    def new_hands(self, name: str, connection: Any) -> Hands:
        broker = LossyBroker(connection, self.clock)
        return Hands(name, broker, Recoverer(broker, self.clock, POLICIES), Watch(broker, connection, name))

    def close(self) -> None:
        for connection in self.connections:
            self.loop.run_until_complete(connection.aclose())
        names = self.redis.keys("*")
        if names:
            self.redis.delete(*names)

    def wait(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def same(self, step: Callable[[Any], None], model: Callable[[Any], None], argument: Any) -> bool:
        """Do the same to Redis and to the model; both accept it, or both refuse. Returns whether they accepted."""
        refused = [refusal(do, argument) for do in (step, model)]
        assert refused[0] == refused[1]
        return refused[0] is None

    # Time.

    @step(5, seconds=moments)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # Clients.

    @step(
        14,
        task=messages,
        place=among("pending", "pending", "pending", "pending", "scheduled", "scheduled", "day", "night"),
        lock=locks,
        delay=among(0, 10, 4000),
        stamp=stamps,
        known_to_server=chance(2),
        later_field=chance(2),
    )
    def a_client_enqueues(
        self,
        task: TaskMessage,
        place: str,
        lock: int,
        delay: int,
        stamp: list[tuple[str, int]],
        *,
        known_to_server: bool,
        later_field: bool,
    ) -> None:
        known = self.model.tasks.get((task.queue, task.id))
        if known is not None and not known.exists:
            return  # its id is still where it was; there it would come to be twice
        if later_field:
            task.MergeFromString(b"\xa2\x06\x05later")  # field 100, of an asynq to come
        if place in {"day", "night"}:
            task.group_key = place
        if lock:
            task.unique_key = unique_key(task.queue, task.type, task.payload)
        steps: dict[str, tuple[Any, Any]] = {
            "pending": (lambda task: self.client.put(task, lock), lambda task: self.model.enqueue(task, lock)),
            "scheduled": (
                lambda task: self.client.schedule(task, self.model.now + delay, lock),
                lambda task: self.model.schedule(task, self.model.now + delay, lock),
            ),
        }
        groups: tuple[Any, Any] = (
            lambda task: self.client.add_to_group(task, lock),
            lambda task: self.model.add_to_group(task, lock),
        )
        if self.same(*steps.get(place, groups), task):
            if stamp:
                self.redis.hset(keys.queue_keys(task.queue).task(task.id), mapping=dict(stamp))
                fields = {name: b"%d" % seconds for name, seconds in stamp}
                self.model.tasks[task.queue, task.id].fields.update(fields)
            if known_to_server:
                self.redis.hset(keys.LOOKUP_PREFIX + task.id, "queue", task.queue)
                self.model.look_up(task.id, hash_of({"queue": task.queue.encode()}))

    @step(1, queue=queues, task_id=among(*IDS), stored=among(b"\xff\xff", None))
    def somebody_enqueues_what_is_no_message(self, queue: str, task_id: str, stored: bytes | None) -> None:
        if (queue, task_id) in self.model.tasks:
            return
        names = keys.queue_keys(queue)
        fields = {"state": b"pending", "pending_since": b"%d" % self.clock.now_ns()}
        self.redis.hset(names.task(task_id), mapping={**fields, **({} if stored is None else {"msg": stored})})
        self.redis.lpush(names.pending, task_id)
        self.model.tasks[queue, task_id] = Task(queue, task_id, "pending", stored, fields)
        self.model.pending[queue].insert(0, task_id)

    @step(1, pick=picks)
    def a_lock_ends(self, pick: int) -> None:
        if not self.model.locks:
            return
        lock = chosen(sorted(self.model.locks), pick)
        self.redis.delete(lock)
        del self.model.locks[lock]

    # Workers.

    @step(
        12,
        worker=workers,
        ended=some(endings, most=3),
        again=some(endings, most=1),
        takes=pair(among(0, 1, 2, 3), among(0, 1, 2, 3)),
        fraction=among(*range(16)),
        lost=chance(3),
    )
    def a_worker_exchanges(
        self,
        worker: int,
        ended: list[tuple[int, Outcome]],
        again: list[tuple[int, Outcome]],
        takes: tuple[int, int],
        fraction: int,
        *,
        lost: bool,
    ) -> None:
        hands = self.hands[worker]
        ending = self.chosen_endings(hands.claims, ended)
        ending += self.chosen_endings(hands.former, again)
        requests, claims = [], []
        for queue, take in zip(QUEUES, takes, strict=True):
            of_queue = [claim for claim in ending if claim.taken.queue == queue]
            if of_queue or take:
                finished = [claim.settled for claim in of_queue if claim.settled]
                requests.append(Exchange(queue, finished, take))
                claims.append(of_queue)
        if not requests:
            return
        hands.broker.fraction = fraction
        lease = hands.broker.new_lease()
        hands.broker.loses = lost
        try:
            answers = self.wait(hands.broker.exchange(requests, lease))
        except RedisConnectionError:
            assert lost
            answers = [None] * len(requests)
        finally:
            hands.broker.loses = False
        for request, of_queue, answer in zip(requests, claims, answers, strict=True):
            self.compare_exchange(hands, request, of_queue, answer, lease)

    def chosen_endings(self, claims: list[Claim], endings: list[tuple[int, Outcome]]) -> list[Claim]:
        """Some of the claims, each once, with their outcomes decided; what was sent before is sent again as it was."""
        found: list[Claim] = []
        for pick, outcome in endings:
            claim = chosen(claims, pick) if claims else None
            if claim is None or any(claim is other for other in found):
                continue
            if claim.settled is None:
                if claim.taken.malformed:
                    outcome = Failure(f"archived unrun: {claim.taken.malformed}", retry=False)  # noqa: PLW2901
                policy = POLICIES[claim.taken.queue]
                claim.settled = policy.settle(claim.taken, outcome, self.clock.now_ns())
                claim.outcome = outcome
            found.append(claim)
        return found

    def compare_exchange(
        self, hands: Hands, request: Exchange, claims: list[Claim], answer: Exchanged | None, lease: float
    ) -> None:
        endings = [(claim.taken.id, claim.holder, claim.outcome) for claim in claims if claim.outcome]
        held, given = self.model.exchange(request.queue, endings, request.take, lease)
        takings = {task.id: task.holder for task, _ in given.tasks}
        if answer is None:
            hands.doubts.add(request, lease, self.clock.monotonic())
            hands.lost_takings |= {
                (request.queue, f"{lease!r} {task_id}"): number for task_id, number in takings.items()
            }
            return
        assert answer.error is None
        assert answer.held == held
        assert answer.paused == given.paused
        assert answer.dropped == given.dropped
        for claim in claims:
            hands.drop(claim)
        assert [task.id for task in answer.taken] == [task.id for task, _ in given.tasks]
        for taken, (task, pending_since) in zip(answer.taken, given.tasks, strict=True):
            self.compare_taken(taken, task)
            assert taken.pending_since == pending_since
            hands.claims.append(Claim(taken, takings[taken.id]))

    def compare_taken(self, taken: TakenTask, task: Task) -> None:
        assert bool(taken.malformed) == task.is_malformed
        assert taken.message == task.message
        assert {name: getattr(taken, name) for name in FIELDS} == {name: task.number(name) for name in FIELDS}
        assert taken.held_until == taken.lease_ends == task.lease

    @step(3, worker=workers)
    def a_worker_looks_what_a_lost_reply_has_given_it(self, worker: int) -> None:
        hands = self.hands[worker]
        known = {(claim.taken.queue, claim.taken.id) for claim in hands.claims}
        for taken in self.wait(hands.doubts.resolve(hands.broker, self.clock.monotonic())):
            if (taken.queue, taken.id) not in known:
                holder = hands.lost_takings[taken.queue, f"{taken.held_until!r} {taken.id}"]
                assert self.model.holds(taken.queue, taken.id, holder)
                self.compare_taken(taken, self.model.tasks[taken.queue, taken.id])
                hands.claims.append(Claim(taken, holder))

    @step(4, worker=workers, queue=queues, which=some(picks, most=4), lost=chance(3))
    def a_worker_extends_its_leases(self, worker: int, queue: str, which: list[int], *, lost: bool) -> None:
        hands = self.hands[worker]
        claims = [claim for claim in [*hands.claims, *hands.former] if claim.taken.queue == queue]
        if not claims or not which:
            return
        numbers = {pick % len(claims) for pick in which}
        claims = [claim for number, claim in enumerate(claims) if number in numbers]
        hands.broker.loses = lost
        try:
            gone = self.wait(hands.broker.extend(queue, [claim.taken for claim in claims]))
        except RedisConnectionError:
            assert lost
            gone = None
        finally:
            hands.broker.loses = False
        lost_ones = [claim.taken for claim in claims if not self.model.extend(queue, claim.taken.id, claim.holder)]
        if gone is not None:
            assert gone == lost_ones
            for claim in claims:
                if claim.taken in lost_ones:
                    hands.drop(claim)
                else:
                    assert claim.taken.lease_ends == self.model.tasks[queue, claim.taken.id].lease

    @step(3, worker=workers)
    def a_worker_forwards(self, worker: int) -> None:
        self.wait(Forwarder(self.hands[worker].broker, QUEUES).round())
        for queue in QUEUES:
            self.model.forward(queue)

    @step(3, which=among((0,), (1,), (0, 1)))
    def workers_recover(self, which: tuple[int, ...]) -> None:
        async def rounds() -> None:
            await asyncio.gather(*(self.hands[worker].recoverer.round() for worker in which))

        self.wait(rounds())
        for queue in QUEUES:
            self.model.adopt(queue)
            self.model.recover(queue, LEASE_EXPIRED)

    @step(1, worker=workers, queue=queues)
    def a_worker_adopts(self, worker: int, queue: str) -> None:
        assert self.wait(self.hands[worker].broker.adopt(queue)) == self.model.adopt(queue)

    @step(3, worker=workers)
    def a_worker_cleans_up(self, worker: int) -> None:
        for queue in QUEUES:
            self.wait(Janitor(self.hands[worker].broker, [queue], POLICIES[queue].ttl_archived).round())
            self.model.expire_completed(queue)
            self.model.expire_archived(queue)

    @step(1, worker=workers, queue=queues, leaves=chance(2))
    def a_worker_watches(self, worker: int, queue: str, *, leaves: bool) -> None:
        hands, before = self.hands[worker], self.redis.hgetall(keys.watch_slots())
        if leaves:
            self.wait(hands.watch.leave([queue], "work"))
            assert hands.name.encode() not in self.slots(queue)
            assert self.redis.lrange(keys.wakeup(queue), 0, -1) in ([b"work"], [b"work", b"work"])
        else:
            (slot,) = self.wait(hands.watch.enter([queue]))
            assert self.slots(queue)[slot - 1] == hands.name.encode()  # there are two workers, and two slots
        others = {field: who for field, who in before.items() if not field.endswith(b":" + queue.encode())}
        assert others.items() <= self.redis.hgetall(keys.watch_slots()).items()

    def slots(self, queue: str) -> list[bytes | None]:
        """Who has the first and the second."""
        found: list[bytes | None] = self.redis.hmget(keys.watch_slots(), f"1:{queue}", f"2:{queue}")
        return found

    # Accidents.

    @step(2, queue=queues)
    def another_worker_dies_while_it_takes(self, queue: str) -> None:
        names = keys.queue_keys(queue)
        moved = self.redis.lmove(names.pending, names.active, "RIGHT", "LEFT")
        assert (moved.decode() if moved else None) == self.model.crash_while_taking(queue)

    @step(1, pick=picks)
    def a_hash_is_lost(self, pick: int) -> None:
        lost = [task for task in self.model.tasks.values() if task.exists and task.holder is None]
        if not lost:
            return
        task = chosen(lost, pick)
        self.redis.delete(keys.queue_keys(task.queue).task(task.id))
        self.model.lose_hash(task)

    # The inspector.

    @step(5, what=among("run_task", "archive_task", "delete_task"), pick=picks)
    def an_inspector_intervenes(self, what: str, pick: int) -> None:
        known = [*self.model.tasks, (QUEUES[0], "unknown")]
        queue, task_id = chosen(known, pick)
        self.same(
            lambda task_id: getattr(self.inspector, what)(queue, task_id),
            lambda task_id: getattr(self.model, what)(queue, task_id),
            task_id,
        )

    @step(2, queue=queues, what=among("unpause", "unpause", "pause"))
    def an_inspector_pauses(self, queue: str, what: str) -> None:
        self.same(getattr(self.inspector, what), getattr(self.model, what), queue)

    @step(1, queue=queues)
    def an_inspector_removes_a_queue(self, queue: str) -> None:
        if len(self.model.tasks) > MANY:
            self.same(self.inspector.remove_queue, self.model.remove_queue, queue)

    # What is true after each step.

    def check(self) -> None:
        found = dump(self.redis)
        self.check_watchers(found)
        for queue in QUEUES:
            self.check_promises(queue, found)
        assert differences(found, self.model.state(), tolerance=PATIENCE) == []

    def check_watchers(self, found: dict[str, Any]) -> None:
        for queue in QUEUES:
            first, second = self.slots(queue)
            assert first is None or first != second
            assert len(found.pop(keys.wakeup(queue), {"value": []})["value"]) <= 2
        for key in (keys.watch_slots(), *(keys.watcher_alive(hands.name) for hands in self.hands)):
            found.pop(key, None)

    def check_promises(self, queue: str, found: dict[str, Any]) -> None:
        names = keys.queue_keys(queue)
        where = places(found, queue)
        tasks = {
            key.removeprefix(names.task_prefix): entry
            for key, entry in found.items()
            if key.startswith(names.task_prefix)
        }
        left_over = {task.id for task in self.model.tasks.values() if task.queue == queue and not task.place}
        without_hash = {task.id for task in self.model.tasks.values() if task.queue == queue and not task.exists}
        assert {task_id: at for task_id, at in where.items() if len(at) != 1} == {}, "an id is in one place"
        assert set(tasks) - set(where) == left_over, "no hash without a place"
        assert set(where) - set(tasks) == without_hash, "no place without a hash"
        leases = {member for member, _ in found.get(names.lease, {"value": []})["value"]}
        assert leases <= set(found.get(names.active, {"value": []})["value"]), "who has a lease is active"
        for task_id, entry in tasks.items():
            state = base64.b64decode(entry["value_b64"]["state"]).decode()
            place = where.get(task_id, [""])[0]
            crashed = place == "active" and self.model.tasks[queue, task_id].holder is None
            assert crashed or not place or state == ("aggregating" if place.startswith("g:") else place)
            if place == "active" and not crashed:
                assert "pending_since" not in entry["value_b64"]


def refusal(do: Callable[[Any], None], argument: Any) -> type[RefusedError] | None:
    try:
        do(argument)
    except RefusedError as error:
        return type(error)
    return None


def chosen(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


EXAMPLES = os.environ.get("RUNQY_EXAMPLES")


@pytest.mark.timeout(3600)  # it computes all the time, which is long on a busy machine
@settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(history=st.binary(min_size=40 * STEP_BYTES, max_size=80 * STEP_BYTES))
def test_the_queues_stay_in_order_whatever_happens(
    history: bytes, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    with pytest.MonkeyPatch.context() as patch, closing(asyncio.new_event_loop()) as loop:
        patch.setattr(broker_module, "ARCHIVE_SIZE", ARCHIVE_SIZE)
        patch.setattr(watch, "ALIVE_MS", LONG_MS)  # Redis' own clock does not stand still
        patch.setattr(watch, "SLOTS_MS", LONG_MS)
        patch.setattr(watch, "WAKEUP_MS", LONG_MS)
        with closing(History(redis_client, RedisAddress("127.0.0.1", redis_server.port), loop)) as lived:
            for at in range(0, len(history) - STEP_BYTES, STEP_BYTES):
                draw = Draw(history[at : at + STEP_BYTES])
                name, drawings = STEPS[draw.below(len(STEPS))]
                if name != "nothing":
                    arguments = {argument: drawing(draw) for argument, drawing in drawings.items()}
                    note(f"{name}({arguments})")
                    getattr(lived, name)(**arguments)
                    lived.check()
