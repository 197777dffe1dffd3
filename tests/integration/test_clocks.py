"""Leases and due times follow Redis' clock, whatever the host's says."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from redis_kit import acl_line
from runqy_agent import Task, Worker, load_config
from runqy_agent.broker import keys
from runqy_agent.broker.broker import LEASE_SECONDS, Broker
from runqy_agent.broker.connection import RedisAddress, open_client
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.redis_time import RedisTime
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.health import judge
from runqy_agent.loops import heartbeat
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.recoverer import GRACE, UNSETTLED, Recoverer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    import redis

    from runqy_agent.demo.redis_server import RedisServer

HOUR = 3600.0
QUEUE = "q"
NAMES = keys.queue_keys(QUEUE)
PATIENCE = 60.0
NEAR = 20.0
"""Seconds that a slow machine may take between two looks at a clock. All that is wrong here is wrong by an hour."""


class HostsClock(Clock):
    """The clock of a host whose wall clock is wrong, and may be set."""

    def __init__(self, ahead: float) -> None:
        super().__init__()
        self.ahead_of_truth = ahead
        self.offset += ahead

    def wall(self) -> float:
        return super().wall() + self.ahead_of_truth


class Rig:
    """A worker with a handler, in this process."""

    def __init__(self, server: RedisServer, clock: Clock, **settings: str) -> None:
        environ = {"RUNQY_REDIS_ADDRESS": server.address, "RUNQY_CONCURRENCY": "4", **settings}
        self.worker = Worker(load_config(environ=environ, server_required=False), queues={QUEUE: 1}, clock=clock)
        self.worker.handle_default(self._handle)
        self.running: list[Task] = []
        self.gate = asyncio.Event()

    async def _handle(self, task: Task) -> str:
        self.running.append(task)
        if task.payload == b'"wait"':
            await self.gate.wait()
        if task.payload == b'"fail"':
            raise ValueError("on purpose")
        return "done"

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited in vain: {what}"
            await asyncio.sleep(0.01)
        return value


@asynccontextmanager
async def serving(rig: Rig) -> AsyncIterator[Rig]:
    await rig.worker.bootstrap()
    run = asyncio.create_task(rig.worker.run())
    try:
        yield rig
    finally:
        rig.gate.set()
        rig.worker.stop()
        await run


def info(client: redis.Redis, task_id: str) -> Any:
    found = TaskClient(client).info(QUEUE, task_id)
    assert found is not None
    return found


def record(client: redis.Redis) -> dict[str, str]:
    (key,) = client.scan_iter("asynq:workers:*", _type="HASH")
    found: Any = client.hgetall(key)
    return {name.decode(): value.decode() for name, value in found.items()}


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_what_a_worker_writes_is_in_redis_time(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    client = TaskClient(redis_client)
    waits, fails, succeeds = (client.enqueue(QUEUE, payload) for payload in (b'"wait"', b'"fail"', b'"done"'))

    async def run() -> None:
        async with serving(Rig(redis_server, HostsClock(ahead))) as rig:
            await rig.until(lambda: len(rig.running) == 3, "all are run")
            now = time.time()  # Redis' clock is ours
            for key in (NAMES.lease, keys.SERVERS, keys.WORKERS):  # 10 to 30 s ahead
                scores: Any = redis_client.zrange(key, 0, -1, withscores=True)
                assert scores
                assert [score for _, score in scores] == pytest.approx([now + 20] * len(scores), abs=20 + NEAR)
            await rig.until(lambda: info(redis_client, fails).state == "retry", "one fails")
            assert redis_client.zscore(NAMES.retry, fails) == pytest.approx(now + 60, abs=60)
            assert info(redis_client, fails).message.last_failed_at == pytest.approx(now, abs=NEAR)
            await rig.until(lambda: info(redis_client, succeeds).state == "completed", "one succeeds")
            assert info(redis_client, succeeds).message.completed_at == pytest.approx(now, abs=NEAR)
            assert redis_client.exists(f"{NAMES.processed}:{time.strftime('%Y-%m-%d', time.gmtime(now))}")
            found = record(redis_client)
            for field in ("started_at", "started", "last_beat"):
                assert float(found[field]) == pytest.approx(now, abs=NEAR)
            assert float(found["clock_offset"]) == pytest.approx(ahead, abs=1.0)
            assert info(redis_client, waits).state == "active"

    asyncio.run(run())
    assert info(redis_client, waits).state == "completed"


def test_a_clock_that_is_set_changes_no_age_that_the_status_tells_and_is_warned_of_each_time(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat.Heartbeat.__init__, "__defaults__", (0.1,))
    caplog.set_level(logging.INFO)
    clock = HostsClock(0.0)
    TaskClient(redis_client).enqueue(QUEUE, b'"wait"')

    def warnings() -> int:
        return caplog.text.count("the clock of this host is")

    async def run() -> None:
        async with serving(Rig(redis_server, clock)) as rig:
            await rig.until(lambda: rig.running, "the task is running")
            assert warnings() == 0
            for warned, ahead in enumerate((HOUR, -HOUR, 300.0), 1):
                clock.ahead_of_truth = ahead
                await rig.until(lambda: warnings() == warned, "it is warned of")  # noqa: B023
                status = rig.worker.describe()
                now = status["now"]
                assert now == pytest.approx(time.time() + ahead, abs=NEAR)
                assert status["clock_offset"] == pytest.approx(ahead, abs=1.0)
                assert abs(now - status["started_at"]) < NEAR
                assert status["redis"]["last_beat"] is not None
                assert abs(now - status["redis"]["last_beat"]) < NEAR
                assert all(0 <= now - process["since"] < NEAR for process in status["processes"].values())
                verdict = judge(status, now=now)
                assert verdict.state == "healthy"
                assert "the clock of this host is" in verdict.reason
                assert ("ahead of" if ahead > 0 else "behind") in verdict.reason
            clock.ahead_of_truth = 2.0
            await rig.until(lambda: "agree again" in caplog.text, "that it is right again is told")
            assert judge(rig.worker.describe(), now=rig.worker.describe()["now"]).reason == f"serving {QUEUE}"

    asyncio.run(run())
    assert warnings() == 3
    assert info(redis_client, rig_task(redis_client)).state == "completed"
    assert redis_client.get(NAMES.failed) is None


def rig_task(client: redis.Redis) -> str:
    ids: Any = client.zrange(NAMES.completed, 0, -1)
    return str(ids[0].decode())


def test_a_deadline_is_told_to_a_handler_in_the_hosts_time(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    task = message(QUEUE, b'"done"')
    task.timeout, task.deadline = 600, int(time.time()) + 300
    TaskClient(redis_client).enqueue_all([task])

    async def run() -> None:
        async with serving(Rig(redis_server, HostsClock(0.0))) as rig:
            await rig.until(lambda: rig.running, "it is run")
            assert rig.running[0].deadline == pytest.approx(time.time() + 300, abs=NEAR)

    asyncio.run(run())


def test_a_handler_that_runs_past_the_timeout_is_cancelled_and_its_task_fails(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    task = message(QUEUE, b'"wait"', max_retry=0)
    task.timeout = 1
    TaskClient(redis_client).enqueue_all([task])

    async def run() -> None:
        async with serving(Rig(redis_server, HostsClock(0.0))) as rig:
            await rig.until(lambda: info(redis_client, task.id).state == "archived", "it is over")

    asyncio.run(run())
    assert info(redis_client, task.id).message.error_msg.startswith("context deadline exceeded: it was still running")


# Where Redis does not tell its time.


def test_without_the_permission_the_hosts_clock_is_used_and_that_is_told_once(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat.Heartbeat.__init__, "__defaults__", (0.05,))
    redis_client.execute_command(*acl_line("pw-of-few-rights", "-time"))
    task_id = TaskClient(redis_client).enqueue(QUEUE, b'"wait"')
    user = {"RUNQY_REDIS_USERNAME": "runqy-agent", "RUNQY_REDIS_PASSWORD": "pw-of-few-rights"}

    async def run() -> None:
        clock = HostsClock(300.0)
        async with serving(Rig(redis_server, clock, **user)) as rig:
            await rig.until(lambda: rig.running, "it is run")
            assert redis_client.zscore(NAMES.lease, task_id) == pytest.approx(time.time() + 330, abs=NEAR)
            assert (rig.worker.describe()["clock_offset"], record(redis_client)["clock_offset"]) == (None, "")
            clock.ahead_of_truth = 0.0  # set right: it is followed, since there is nothing better
            await rig.until(lambda: abs(clock.now() - time.time()) < 1, "it is followed")
            assert rig.worker.describe()["healthy"]

    asyncio.run(run())
    redis_client.execute_command("ACL", "DELUSER", "runqy-agent")
    assert info(redis_client, task_id).state == "completed"
    assert caplog.text.count("Redis does not tell its time") == 1
    assert "docs/configuration.md" in caplog.text


class Refusing:
    """What a broker does that is asked for the time."""

    def __init__(self, replies: list[Any]) -> None:
        self.replies = replies

    async def run_script(self, *_: object) -> Any:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


REFUSALS = [
    NoPermissionError("this user has no permissions to run the 'time' command"),
    "ERR The user executing the script can't run this command or subcommand script: abc",
    "ERR Error running script: @user_script:1: Unknown Redis command called from script",
    "ERR Unknown Redis command called from Lua script",
    "ERR unknown command 'TIME', with args beginning with:",
    "ACL failure in script: User bob has no permissions to run the 'time' command",
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_time_that_is_refused_later_leaves_the_clock_where_it_was(refusal: Exception | str) -> None:
    error = refusal if isinstance(refusal, Exception) else ResponseError(refusal)

    async def run() -> None:
        clock = HostsClock(300.0)
        kept = RedisTime(Refusing([[b"1800000000", b"500000"], error]), clock)  # type: ignore[arg-type]
        await kept.learn()
        offset = clock.offset
        assert clock.now() == pytest.approx(1_800_000_000.5, abs=NEAR)
        await kept.learn()
        assert (clock.offset, kept.known) == (offset, True)

    asyncio.run(run())


def test_other_trouble_while_asking_for_the_time_is_raised_and_changes_nothing() -> None:
    async def run() -> None:
        clock = HostsClock(300.0)
        offset = clock.offset
        busy = ResponseError("BUSY Redis is busy running a script")
        time_of = RedisTime(Refusing([busy]), clock)  # type: ignore[arg-type]
        with pytest.raises(ResponseError, match="BUSY"):
            await time_of.learn()
        assert (clock.offset, time_of.known, time_of.ahead) == (offset, False, None)

    asyncio.run(run())


# The loops that look after what others have left.


def with_broker(server: RedisServer, clock: Clock, run: Callable[[Broker], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        client = open_client(RedisAddress("127.0.0.1", server.port))
        broker = Broker(client, clock)
        await broker.time.learn(3)
        await run(broker)
        await client.aclose()

    asyncio.run(opened())


def leased(client: redis.Redis, ended_ago: float) -> str:
    """A task that a worker holds, or held."""
    task_id = TaskClient(client).enqueue(QUEUE, b"{}")
    client.lmove(NAMES.pending, NAMES.active, "RIGHT", "LEFT")
    client.hset(NAMES.task(task_id), "state", "active")
    client.zadd(NAMES.lease, {task_id: int(time.time() - ended_ago)})
    return task_id


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_tasks_are_taken_over_by_redis_time_only(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    at_work, gone = leased(redis_client, -5.0), leased(redis_client, GRACE + 5.0)
    clock = HostsClock(ahead)

    async def run(broker: Broker) -> None:
        await Recoverer(broker, clock, {QUEUE: Policy()}).round()

    with_broker(redis_server, clock, run)
    assert (info(redis_client, at_work).state, info(redis_client, gone).state) == ("active", "retry")


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_what_had_no_lease_gets_one_that_ends_now_by_redis_time(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    stranded = leased(redis_client, 0.0)
    redis_client.delete(NAMES.lease)

    async def run(broker: Broker) -> None:
        assert await broker.adopt(QUEUE) == [stranded]

    with_broker(redis_server, HostsClock(ahead), run)
    assert redis_client.zscore(NAMES.lease, stranded) == pytest.approx(time.time(), abs=NEAR)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_how_long_a_task_has_waited_is_counted_by_redis_time(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    fresh, old = (TaskClient(redis_client).enqueue(QUEUE, b'"done"') for _ in range(2))
    for task_id, waited in ((fresh, 0), (old, 1200)):
        since = time.time_ns() - waited * 10**9
        redis_client.hset(NAMES.task(task_id), mapping={"pending_since": since, "pending_timeout": 600})

    async def run() -> None:
        async with serving(Rig(redis_server, HostsClock(ahead))) as rig:
            await rig.until(lambda: info(redis_client, old).state == "archived", "what has waited too long is archived")
            await rig.until(lambda: info(redis_client, fresh).state == "completed", "the other is run")
            assert asyncio.all_tasks() - {asyncio.current_task()}
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing goes on after its end

    asyncio.run(run())


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_what_is_due_is_due_by_redis_time_only(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    ids = [TaskClient(redis_client).enqueue(QUEUE, b"{}") for _ in range(4)]
    redis_client.delete(NAMES.pending)
    now = time.time()
    for task_id, part, due in zip(ids, ("scheduled", "retry") * 2, (-5, -5, 1800, 1800), strict=True):
        redis_client.hset(NAMES.task(task_id), "state", part)
        redis_client.zadd(getattr(NAMES, part), {task_id: now + due})
    clock = HostsClock(ahead)
    with_broker(redis_server, clock, lambda broker: Forwarder(broker, [QUEUE]).round())
    assert [info(redis_client, task_id).state for task_id in ids] == ["pending", "pending", "scheduled", "retry"]
    since: Any = redis_client.hget(NAMES.task(ids[0]), "pending_since")
    assert int(since) / 1e9 == pytest.approx(now, abs=NEAR)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_what_is_deleted_is_old_by_redis_time(
    redis_server: RedisServer, redis_client: redis.Redis, ahead: float
) -> None:
    ids = [TaskClient(redis_client).enqueue(QUEUE, b"{}") for _ in range(4)]
    redis_client.delete(NAMES.pending)
    now = time.time()
    scores = {"completed": (-5, 1800), "archived": (-7200 - 5, -7200 + 1800)}
    for task_id, (part, score) in zip(
        ids, ((part, score) for part, both in scores.items() for score in both), strict=True
    ):
        redis_client.hset(NAMES.task(task_id), "state", part)
        redis_client.zadd(getattr(NAMES, part), {task_id: now + score})
    clock = HostsClock(ahead)
    with_broker(redis_server, clock, lambda broker: Janitor(broker, [QUEUE], ttl_archived=7200).round())
    assert [TaskClient(redis_client).info(QUEUE, task_id) is None for task_id in ids] == [True, False, True, False]


def test_after_redis_clock_was_set_nothing_is_recovered_until_all_have_had_time_to_renew(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    gone = leased(redis_client, GRACE + 5.0)
    clock = HostsClock(0.0)

    async def run(broker: Broker) -> None:
        recoverer = Recoverer(broker, clock, {QUEUE: Policy()})
        clock.set_at = clock.monotonic()
        await recoverer.round()
        assert info(redis_client, gone).state == "active"
        clock.set_at = clock.monotonic() - UNSETTLED + 5
        await recoverer.round()
        assert info(redis_client, gone).state == "active"
        clock.set_at = clock.monotonic() - UNSETTLED
        await recoverer.round()
        assert info(redis_client, gone).state == "retry"

    with_broker(redis_server, clock, run)
    assert UNSETTLED >= 2 * heartbeat.INTERVAL + LEASE_SECONDS  # they learn of it, and renew by the new clock


def test_a_lease_is_judged_by_the_clock_of_this_host_that_cannot_be_set(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    TaskClient(redis_client).enqueue(QUEUE, b"{}")
    clock = HostsClock(HOUR)

    async def run(broker: Broker) -> None:
        (answer,) = await broker.exchange([Exchange(QUEUE, take=1)], broker.new_lease())
        (task,) = answer.taken
        assert task.lease_ends == pytest.approx(clock.monotonic() + LEASE_SECONDS, abs=NEAR)
        assert task.held_until == pytest.approx(time.time() + LEASE_SECONDS, abs=NEAR)
        clock.ahead_of_truth = -HOUR
        task.lease_ends = 0.0
        assert await broker.extend(QUEUE, [task]) == []
        assert task.lease_ends == pytest.approx(clock.monotonic() + LEASE_SECONDS, abs=NEAR)

    with_broker(redis_server, clock, run)
