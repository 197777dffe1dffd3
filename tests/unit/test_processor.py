"""The owner of the slots, against a Redis that does as the test says."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runqy_agent.broker.exchange import Exchange, Exchanged, NotDoneError
from runqy_agent.broker.settle import Policy
from runqy_agent.clock import Clock
from runqy_agent.loops import doubts
from runqy_agent.loops import processor as processor_module
from runqy_agent.loops.processor import Processor
from runqy_agent.loops.route import Route
from runqy_agent.loops.selection import WeightedShares
from runqy_agent.outcome import Failure, Success, Unstarted
from runqy_agent.process.runner import RunnerHealth
from task_kit import taken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.process.runner import Runner, Sink

PATIENCE = 30.0


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # what the tests wait for has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), PATIENCE)


class ScriptedBroker:
    """Queues in memory, and trouble on demand."""

    def __init__(self, **queues: int) -> None:
        self.pending = {queue: deque(f"{queue}{number}" for number in range(count)) for queue, count in queues.items()}
        self.special: dict[str, TakenTask] = {}
        self.active: set[str] = set()
        self.written: list[tuple[str, str]] = []
        self.failures = 0
        self.trouble: type[Exception] = RedisConnectionError
        self.refused: set[str] = set()
        self.paused: set[str] = set()
        self.taken_over: set[str] = set()
        self.most_active = 0
        self.lease_seconds = 30.0
        self.lost_replies = 0
        self.doubtful_answers = 0
        self.failed_looks = 0
        self.taken_unheard: list[TakenTask] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def new_lease(self) -> float:
        return Clock().now() + 30.25

    async def reclaim(self, *_: object) -> list[TakenTask]:
        if self.failed_looks:
            self.failed_looks -= 1
            raise RedisTimeoutError("gone")
        return list(self.taken_unheard)

    async def exchange(self, requests: Sequence[Exchange], *_: object) -> list[Exchanged]:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise self.trouble("gone")
        answers = [self._one(request) for request in requests]
        if self.lost_replies and any(answer.taken for answer in answers):
            self.lost_replies -= 1
            self.taken_unheard += [task for answer in answers for task in answer.taken]
            raise RedisTimeoutError("gone")
        if self.doubtful_answers and any(answer.taken for answer in answers):
            self.doubtful_answers -= 1
            self.taken_unheard += [task for answer in answers for task in answer.taken]
            return [Exchanged(error=RedisTimeoutError("gone"), in_doubt=True) for _ in answers]
        self.most_active = max(self.most_active, len(self.active))
        return answers

    def _one(self, request: Exchange) -> Exchanged:
        queue = request.queue
        if queue in self.refused:
            return Exchanged(error=ResponseError("WRONGTYPE"))
        held = []
        for settled in request.finished:
            task_id = settled.task.id
            held.append(task_id not in self.taken_over)
            if held[-1]:
                self.written.append((settled.step, task_id))
                self.active.remove(task_id)
                if settled.step == "requeue":
                    self.pending[queue].appendleft(task_id)
        ids: list[str] = []
        while queue not in self.paused and self.pending[queue] and len(ids) < request.take:
            ids.append(self.pending[queue].popleft())
        self.active.update(ids)
        clock = Clock()
        tasks = [self.special.get(task_id) or taken(task_id, queue=queue, retention=60) for task_id in ids]
        for task in tasks:
            task.held_until = clock.now() + self.lease_seconds
            task.lease_ends = clock.monotonic() + self.lease_seconds
        return Exchanged(held, tasks, [], queue in self.paused)

    def steps(self, step: str) -> list[str]:
        return [task_id for written, task_id in self.written if written == step]


class ManualRunner:
    """Runs nothing; the test says how each task ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.health = RunnerHealth("ready")
        self.begun: list[TakenTask] = []
        self.abandoned: list[str] = []
        self.at_once = False
        self.sink: Sink

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    async def start(self) -> None: ...

    async def watch(self) -> None: ...

    async def stop(self) -> None: ...

    def run(self, tasks: Sequence[TakenTask]) -> None:
        self.begun += tasks
        if self.at_once:
            loop = asyncio.get_running_loop()
            for task in tasks:
                loop.call_soon(self.end, task)

    def abandon(self, task: TakenTask) -> None:
        self.abandoned.append(task.id)

    def end(self, task: TakenTask) -> None:
        self.sink.finished(task, Success(b"1"))
        self.sink.wake()

    @property
    def ids(self) -> list[str]:
        return [task.id for task in self.begun]


class Rig:
    """A processor with one runner for each queue, running."""

    def __init__(self, broker: ScriptedBroker, concurrency: int, **weights: int) -> None:
        self.broker = broker
        weights = weights or dict.fromkeys(broker.pending, 1)
        self.runners = {queue: ManualRunner(queue) for queue in weights}
        self.routes = {
            queue: Route(queue, weight, cast("Runner", self.runners[queue]), Policy())
            for queue, weight in weights.items()
        }
        self.processor = Processor(
            cast("Broker", broker), Clock(), list(self.routes.values()), concurrency, WeightedShares([*weights.items()])
        )


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = rig.processor.start()
    yield rig
    assert not task.done(), "the processor ended by itself"
    await rig.processor.stop()


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(test())


def test_slots_never_exceed_the_concurrency_and_every_task_is_written() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=300, b=200), concurrency=7)) as rig:
            for runner in rig.runners.values():
                runner.at_once = True
            await until(lambda: len(rig.broker.written) == 500)
            assert rig.broker.most_active <= 7
            assert not rig.processor.held
            assert len(rig.broker.steps("complete")) == 500
            assert sorted(rig.runners["a"].ids) == sorted(f"a{n}" for n in range(300))
            assert rig.processor.counts == {"Success": 500}

    run(test)


def test_a_slot_that_one_queue_frees_goes_to_a_task_of_another_without_detour() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=0, b=1), concurrency=1, a=9, b=1)) as rig:
            await until(lambda: rig.runners["b"].begun)
            rig.broker.pending["a"].extend(["a0", "a1"])
            rig.runners["b"].end(rig.runners["b"].begun[0])
            await until(lambda: rig.runners["a"].begun)
            assert rig.broker.steps("requeue") == []

    run(test)


def test_tasks_of_a_runner_that_is_not_ready_stay_in_their_queue() -> None:
    async def test() -> None:
        rig = Rig(ScriptedBroker(a=5, b=5), concurrency=2)
        rig.runners["a"].ready = False
        rig.runners["b"].at_once = True
        async with running(rig):
            await until(lambda: len(rig.broker.steps("complete")) == 5)
            assert rig.runners["a"].begun == []
            rig.runners["a"].ready = True
            rig.runners["a"].at_once = True
            rig.processor.health_changed()
            await until(lambda: len(rig.broker.steps("complete")) == 10)

    run(test)


def test_a_queue_that_redis_refuses_leaves_the_others_working_and_keeps_its_outcomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor_module, "REFUSED_DELAY", 0.05)

    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=2, b=0), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            rig.broker.refused.add("a")
            rig.broker.pending["b"].extend(f"b{n}" for n in range(50))
            rig.runners["b"].at_once = True
            for task in rig.runners["a"].begun:
                rig.runners["a"].end(task)
            await until(lambda: len(rig.broker.steps("complete")) == 50)
            assert rig.broker.steps("requeue") == []
            assert len(rig.processor.held) == 2
            rig.broker.refused.clear()
            await until(lambda: len(rig.broker.steps("complete")) == 52)
            assert not rig.processor.held

    run(test)


def test_an_outcome_is_kept_while_redis_is_away_and_written_when_it_is_back() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=3), concurrency=3)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 3)
            rig.broker.failures = 2
            for task in rig.runners["a"].begun:
                rig.runners["a"].end(task)
            await until(lambda: len(rig.broker.written) == 3)
            assert rig.broker.failures == 0
            assert rig.processor.counts["Success"] == 3

    run(test)


def test_nothing_is_written_for_a_task_whose_lease_is_lost_and_its_run_ends() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=2), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            lost, kept = rig.runners["a"].begun
            rig.processor.lost([lost], "the test says so")
            assert rig.runners["a"].abandoned == [lost.id]
            for task in (lost, kept):
                rig.runners["a"].end(task)
            await until(lambda: rig.broker.written)
            assert rig.broker.written == [("complete", kept.id)]
            assert rig.processor.counts["Lost"] == 1

    run(test)


def test_an_outcome_that_waits_to_be_written_is_dropped_when_its_lease_is_lost() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            (task,) = rig.runners["a"].begun
            rig.processor.finished(task, Success())
            rig.processor.lost([task], "the test says so")
            rig.broker.pending["a"].append("next")
            rig.processor.wake()
            await until(lambda: rig.runners["a"].ids == [task.id, "next"])
            assert rig.broker.written == []

    run(test)


def test_a_task_whose_outcome_is_on_its_way_is_not_lost_because_its_lease_is_gone_already() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            (task,) = rig.runners["a"].begun
            rig.broker.gate.clear()
            rig.runners["a"].end(task)
            await until(lambda: rig.processor.exchanging)
            rig.processor.lost([task], "the lease was removed together with the task")
            rig.broker.gate.set()
            await until(lambda: not rig.processor.held)
            assert rig.broker.written == [("complete", task.id)]
            assert rig.processor.counts["Lost"] == 0

    run(test)


def test_an_outcome_whose_reply_was_lost_is_sent_again_and_is_no_loss_if_it_was_written() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            (task,) = rig.runners["a"].begun
            rig.broker.failures = 1
            rig.broker.taken_over.add(task.id)  # what Redis says of a task that the lost exchange has completed
            rig.runners["a"].end(task)
            await until(lambda: not rig.processor.held)
            assert rig.processor.counts["Lost"] == 0

    run(test)


def test_a_task_that_redis_says_is_no_longer_held_is_counted_and_its_slot_is_free() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            rig.broker.taken_over.add("a0")
            rig.broker.pending["a"].append("next")
            rig.runners["a"].end(rig.runners["a"].begun[0])
            await until(lambda: rig.runners["a"].ids == ["a0", "next"])
            assert rig.broker.written == []
            assert rig.processor.counts["Lost"] == 1

    run(test)


def test_a_second_outcome_for_one_task_changes_nothing() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            (task,) = rig.runners["a"].begun
            rig.processor.cut_off(task, Failure("too late", retry=False))
            rig.runners["a"].end(task)
            await until(lambda: not rig.processor.held)
            rig.runners["a"].end(task)
            assert rig.broker.written == [("archive", "a0")]
            assert rig.runners["a"].abandoned == ["a0"]

    run(test)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"malformed": "the task's hash has no field msg"}, "archived unrun: the task's hash has no field msg"),
        ({"pending_since": 1, "pending_timeout": 60}, "longer than its pending timeout of 60 s"),
    ],
)
def test_a_task_that_is_not_to_be_run_is_archived_and_harms_no_other(fields: dict[str, Any], reason: str) -> None:
    async def test() -> None:
        rig = Rig(ScriptedBroker(a=3), concurrency=1)
        rig.broker.special["a1"] = refused = taken("a1", queue="a", **fields)
        rig.runners["a"].at_once = True
        async with running(rig):
            await until(lambda: len(rig.broker.written) == 3)
        assert rig.broker.steps("archive") == ["a1"]
        assert rig.runners["a"].ids == ["a0", "a2"]
        assert reason in refused.message.error_msg

    run(test)


def test_a_paused_queue_is_left_alone_and_others_go_on() -> None:
    async def test() -> None:
        rig = Rig(ScriptedBroker(a=1, b=3), concurrency=2)
        rig.broker.paused.add("a")
        rig.runners["b"].at_once = rig.runners["a"].at_once = True
        async with running(rig):
            await until(lambda: len(rig.broker.steps("complete")) == 3)
            assert list(rig.broker.pending["a"]) == ["a0"]
            assert rig.runners["a"].begun == []
            rig.broker.paused.clear()
            await until(lambda: rig.runners["a"].ids == ["a0"])

    run(test)


def test_an_outcome_that_comes_after_the_end_of_the_lease_is_not_written() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=2), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            late, in_time = rig.runners["a"].begun
            late.lease_ends = Clock().monotonic() - 0.001
            rig.runners["a"].end(late)
            rig.runners["a"].end(in_time)
            await until(lambda: not rig.processor.held)
            assert rig.broker.written == [("complete", in_time.id)]
            assert rig.processor.counts["Lost"] == 1

    run(test)


def test_a_task_whose_lease_has_ended_before_its_answer_arrived_goes_back_unrun() -> None:
    async def test() -> None:
        rig = Rig(ScriptedBroker(a=1), concurrency=1)
        rig.broker.lease_seconds = -1.0
        async with running(rig):
            await until(lambda: rig.broker.steps("requeue"))
            assert rig.runners["a"].begun == []
            rig.broker.lease_seconds = 30.0
            await until(lambda: rig.runners["a"].ids == ["a0"])
            assert rig.processor.counts["Lost"] == 0

    run(test)


def test_an_outcome_in_doubt_whose_lease_ends_counts_as_lost_and_one_that_was_written_does_not() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=2), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            late, written = rig.runners["a"].begun
            rig.broker.failures = 1
            rig.broker.taken_over.add(written.id)  # as it looks when the lost exchange has written it
            rig.runners["a"].end(written)
            await until(lambda: written not in rig.processor.held)
            assert rig.processor.counts["Lost"] == 0
            rig.broker.failures = 1
            rig.runners["a"].end(late)
            await until(lambda: rig.broker.failures == 0)
            late.lease_ends = Clock().monotonic() - 0.001
            await until(lambda: late not in rig.processor.held)
            assert rig.processor.counts["Lost"] == 1

    run(test)


def test_nothing_is_in_doubt_where_nothing_was_carried_out() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=1), concurrency=1)) as rig:
            await until(lambda: rig.runners["a"].begun)
            (task,) = rig.runners["a"].begun
            rig.broker.trouble = NotDoneError
            rig.broker.failures = 1
            rig.broker.taken_over.add(task.id)
            rig.runners["a"].end(task)
            await until(lambda: not rig.processor.held)
            assert rig.processor.counts["Lost"] == 1

    run(test)


def test_a_task_that_was_taken_unheard_is_run_once_however_often_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "CHECKS", (0.0, 0.01, 0.02, 0.03))

    async def test() -> None:
        broker = ScriptedBroker(a=1)
        broker.lost_replies = 1
        async with running(Rig(broker, concurrency=2)) as rig:
            await until(lambda: rig.runners["a"].begun)
            await until(lambda: rig.processor._doubts.next_check() is None)
            assert rig.runners["a"].ids == ["a0"]
            rig.runners["a"].end(rig.runners["a"].begun[0])
            await until(lambda: not rig.processor.held)
            assert broker.written == [("complete", "a0")]

    run(test)


def test_a_task_that_a_node_of_a_cluster_gave_unheard_is_run() -> None:
    async def test() -> None:
        broker = ScriptedBroker(a=1)
        broker.doubtful_answers = 1
        async with running(Rig(broker, concurrency=2)) as rig:
            await until(lambda: rig.runners["a"].ids == ["a0"])

    run(test)


def test_a_task_found_when_others_have_its_slot_goes_back_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "AGAIN_SECONDS", 0.5)

    async def test() -> None:
        broker = ScriptedBroker(a=2)
        broker.lost_replies = broker.failed_looks = 1
        async with running(Rig(broker, concurrency=1)) as rig:
            await until(lambda: broker.steps("requeue"))
            assert (broker.steps("requeue"), rig.runners["a"].ids) == (["a0"], ["a1"])
            assert list(broker.pending["a"]) == ["a0"]
            broker.taken_unheard.clear()
            rig.runners["a"].end(rig.runners["a"].begun[0])
            await until(lambda: rig.runners["a"].ids == ["a1", "a0"])

    run(test)


def test_draining_lets_running_tasks_end_and_takes_nothing_more() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=5), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            drain = asyncio.create_task(rig.processor.drain(PATIENCE))
            rig.broker.pending["a"].append("late")
            rig.processor.wake()
            assert not drain.done()
            for task in rig.runners["a"].begun:
                rig.runners["a"].end(task)
            await asyncio.wait_for(drain, PATIENCE)
            assert rig.broker.steps("complete") == ["a0", "a1"]
            assert list(rig.broker.pending["a"]) == ["a2", "a3", "a4", "late"]

    run(test)


def test_what_does_not_end_in_time_goes_back_to_the_head_in_its_old_order() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=5), concurrency=3)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 3)
            await asyncio.wait_for(rig.processor.drain(0.0), PATIENCE)
            assert list(rig.broker.pending["a"]) == ["a0", "a1", "a2", "a3", "a4"]
            assert sorted(rig.runners["a"].abandoned) == ["a0", "a1", "a2"]
            assert rig.processor.counts == {"Unstarted": 3}

    run(test)


def test_draining_with_nothing_held_does_not_wait_although_redis_went_away_in_the_middle_of_a_take() -> None:
    async def test() -> None:
        rig = Rig(ScriptedBroker(a=0), concurrency=1)
        rig.broker.gate.clear()
        async with running(rig):
            await until(lambda: rig.processor.exchanging)
            drain = asyncio.create_task(rig.processor.drain(1000 * PATIENCE))
            rig.broker.failures = 1
            rig.broker.gate.set()
            await asyncio.wait_for(drain, PATIENCE)

    run(test)


def test_a_batch_given_back_by_its_runner_is_requeued_and_nothing_is_counted_as_failure() -> None:
    async def test() -> None:
        async with running(Rig(ScriptedBroker(a=2), concurrency=2)) as rig:
            await until(lambda: len(rig.runners["a"].begun) == 2)
            rig.runners["a"].ready = False
            for task in reversed(rig.runners["a"].begun):
                rig.processor.finished(task, Unstarted())
            rig.processor.health_changed()
            await until(lambda: not rig.processor.held)
            assert list(rig.broker.pending["a"]) == ["a0", "a1"]
            assert rig.broker.steps("retry") == rig.broker.steps("archive") == []

    run(test)
