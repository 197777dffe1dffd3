"""Handlers by task type, and how the end of a handler becomes the outcome of its task."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent import Handler, NoHandlerError, RevokeTask, ServeMux, SkipRetry, Task
from runqy_agent.clock import Clock
from runqy_agent.handler_runner import HandlerRunner
from runqy_agent.outcome import Failure, Outcome, Revoked, Success
from task_kit import Outcomes, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATIENCE = 30.0


def says(what: object) -> Callable[[Task], Coroutine[Any, Any, object]]:
    async def handler(_: Task) -> object:
        return what

    return handler


def answer(mux: ServeMux, task_type: str) -> object:
    return asyncio.run(mux(Task(taken(type=task_type))))


# Choosing.


def test_the_longest_pattern_that_a_type_begins_with_wins() -> None:
    mux = ServeMux()
    mux.handle("email:", says("any mail"))
    mux.handle("email:send", says("send"))
    mux.handle("email:send:bulk", says("bulk"))
    assert answer(mux, "email:send") == "send"
    assert answer(mux, "email:sender") == "send"
    assert answer(mux, "email:send:bulk") == "bulk"
    assert answer(mux, "email:read") == "any mail"


def test_a_type_without_handler_is_an_error_that_names_it_unless_there_is_a_default() -> None:
    mux = ServeMux()
    mux.handle("email:", says("mail"))
    assert mux.find("image:resize") is None
    with pytest.raises(NoHandlerError, match="'image:resize'"):
        answer(mux, "image:resize")
    mux.handle_default(says("default"))
    assert answer(mux, "image:resize") == "default"
    assert answer(mux, "email:x") == "mail"


def test_a_mux_without_handlers_is_empty() -> None:
    mux = ServeMux()
    assert not mux
    mux.handle_default(says(1))
    assert mux


def test_a_pattern_has_one_handler_and_is_not_empty() -> None:
    mux = ServeMux()
    mux.handle("a", says(1))
    with pytest.raises(ValueError, match="handler for 'a' already"):
        mux.handle("a", says(2))
    with pytest.raises(ValueError, match="handle_default"):
        mux.handle(" ", says(3))


def test_middleware_is_applied_in_the_order_given_the_first_one_outermost() -> None:
    seen: list[str] = []

    def named(name: str) -> Callable[[Handler], Handler]:
        def wrap(inner: Handler) -> Handler:
            async def around(task: Task) -> object:
                seen.append(f"{name} before {task.id}")
                result = await inner(task)
                seen.append(f"{name} after")
                return result

            return around

        return wrap

    mux = ServeMux()
    mux.use(named("one"), named("two"))
    mux.handle("a", says("done"))
    mux.use(named("three"))
    assert answer(mux, "a") == "done"
    assert seen == ["one before t1", "two before t1", "three before t1", "three after", "two after", "one after"]


def test_a_mux_is_a_handler_and_keeps_its_own_middleware() -> None:
    def loud(inner: Handler) -> Handler:
        async def around(task: Task) -> str:
            return str(await inner(task)).upper()

        return around

    inner, outer = ServeMux(), ServeMux()
    inner.use(loud)
    inner.handle("email:send", says("sent"))
    outer.handle("email:", inner)
    outer.handle("image:", says("resized"))
    assert answer(outer, "email:send") == "SENT"
    assert answer(outer, "image:x") == "resized"
    with pytest.raises(NoHandlerError, match="email:other"):
        answer(outer, "email:other")


def test_plain_functions_run_in_a_thread_and_callable_objects_where_they_belong() -> None:
    class Slow:
        async def __call__(self, _: Task) -> str:
            return threading.current_thread().name

    mux = ServeMux()
    mux.handle("plain", lambda _: threading.current_thread().name)
    mux.handle("object", Slow())
    assert answer(mux, "plain") != threading.current_thread().name
    assert answer(mux, "object") == threading.current_thread().name


def test_a_handler_sees_the_whole_task() -> None:
    taken_task = taken("id", b'{"n": 1}', type="t", queue="q.high", retried=2, retry=5, headers={"a": "b"})
    clock = Clock()
    taken_task.deadline = clock.monotonic() + 9.0
    shown = clock.shown(taken_task.deadline)
    task = Task(taken_task)
    assert (task.id, task.type, task.payload, task.queue) == ("id", "t", b'{"n": 1}', "q.high")
    assert (task.retried, task.max_retry, task.headers) == (2, 5, {"a": "b"})
    assert task.deadline == pytest.approx(shown, abs=0.5)  # unix seconds
    assert task.json() == {"n": 1}


# Running.


class Rig:
    """A started runner with one handler, and what it reported."""

    def __init__(self, handler: Callable[[Task], Any]) -> None:
        mux = ServeMux()
        mux.handle("work", handler)
        self.sink = Outcomes()
        self.runner = HandlerRunner("handlers", mux)
        self.runner.attach(self.sink)

    async def run(self, task_type: str = "work") -> Outcome:
        await self.runner.start()
        self.runner.run([taken(type=task_type)])
        await self.settled(1)
        ((_, outcome),) = self.sink.seen
        return outcome

    async def settled(self, count: int) -> None:
        async def enough() -> None:
            while len(self.sink.seen) < count:  # noqa: ASYNC110  # a sink has no event
                await asyncio.sleep(0)

        await asyncio.wait_for(enough(), PATIENCE)


def outcome_of(handler: Callable[[Task], Any], task_type: str = "work") -> Outcome:
    return asyncio.run(Rig(handler).run(task_type))


@pytest.mark.parametrize(
    ("returned", "result"),
    [(None, None), ({"a": 1}, b'{"a":1}'), ("x", b'"x"'), (0, b"0"), (b"raw", b"raw"), (bytearray(b"raw"), b"raw")],
)
def test_what_a_handler_returns_is_the_result(returned: object, result: bytes | None) -> None:
    assert outcome_of(says(returned)) == Success(result)


def test_what_was_written_last_to_the_result_writer_wins_over_what_is_returned() -> None:
    async def handler(task: Task) -> str:
        task.result_writer.write(b"first")
        assert task.result_writer.write(b"second") == 6
        return "returned"

    assert outcome_of(handler) == Success(b"second")


def test_an_exception_is_a_failure_with_its_traceback_that_is_retried() -> None:
    async def handler(_: Task) -> None:
        raise ValueError("no such picture")

    outcome = outcome_of(handler)
    assert isinstance(outcome, Failure)
    assert outcome.error.rstrip().endswith("ValueError: no such picture")
    assert "in handler" in outcome.error
    assert (outcome.retry, outcome.counted) == (True, True)


def test_skip_retry_archives_at_once() -> None:
    def handler(_: Task) -> None:
        raise SkipRetry("hopeless")

    assert outcome_of(handler) == Failure("hopeless", retry=False)


def test_skip_retry_without_a_text_says_what_it_is() -> None:
    def handler(_: Task) -> None:
        raise SkipRetry

    assert outcome_of(handler) == Failure("the handler asked not to retry", retry=False)


def test_revoke_task_gives_the_task_up() -> None:
    async def handler(_: Task) -> None:
        raise RevokeTask

    assert outcome_of(handler) == Revoked()


def test_a_type_without_handler_fails_and_says_so() -> None:
    assert outcome_of(says(1), "other") == Failure("no handler for task type 'other'")


def test_a_result_that_cannot_be_written_as_json_is_a_failure() -> None:
    outcome = outcome_of(says(object()))
    assert isinstance(outcome, Failure)
    assert "TypeError" in outcome.error


@pytest.mark.parametrize("threaded", [False, True])
def test_a_handler_that_exits_ends_its_task_and_not_the_program(threaded: bool) -> None:
    async def handler(_: Task) -> None:
        sys.exit("no arguments")

    outcome = outcome_of((lambda _: sys.exit("no arguments")) if threaded else handler)
    assert isinstance(outcome, Failure)
    assert "SystemExit: no arguments" in outcome.error


def test_a_handler_cancelled_from_within_has_failed() -> None:
    async def handler(_: Task) -> None:
        raise asyncio.CancelledError

    assert outcome_of(handler) == Failure("the handler was cancelled from within")


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_abandoned_task_is_cancelled_and_nothing_is_reported(stubborn: bool) -> None:
    ended: list[str] = []

    async def handler(_: Task) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            if not stubborn:
                raise

    async def run() -> list[object]:
        rig = Rig(handler)
        await rig.runner.start()
        first, second = taken("first", type="work"), taken("second", type="nothing")
        rig.runner.run([first])
        await asyncio.sleep(0)
        running = list(rig.runner._running.values())
        rig.runner.abandon(first)
        rig.runner.abandon(first)
        await asyncio.wait(running)
        rig.runner.run([second])
        await rig.settled(1)
        return [task_id for task_id, _ in rig.sink.seen]

    assert asyncio.run(run()) == ["second"]
    assert ended == ["cancelled"]


def test_stopping_cancels_what_runs_and_reports_nothing() -> None:
    async def run() -> None:
        rig = Rig(lambda _: None)
        rig.runner._mux.handle("wait", _wait)
        await rig.runner.start()
        assert rig.runner.ready
        rig.runner.run([taken("a", type="wait"), taken("b", type="wait")])
        await asyncio.sleep(0)
        await rig.runner.stop()
        assert rig.sink.seen == []
        assert (rig.runner.ready, rig.runner.health.state) == (False, "stopped")

    asyncio.run(run())


async def _wait(_: Task) -> None:
    await asyncio.Event().wait()


def test_tasks_run_side_by_side_and_every_one_is_reported_and_followed_by_a_wake() -> None:
    async def run() -> None:
        barrier = asyncio.Event()
        waiting = 0

        async def handler(_: Task) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 10:
                barrier.set()
            await barrier.wait()

        rig = Rig(handler)
        await rig.runner.start()
        rig.runner.run([taken(str(n), type="work") for n in range(10)])
        await rig.settled(10)
        assert sorted(task_id for task_id, _ in rig.sink.seen) == [str(n) for n in range(10)]
        assert rig.sink.wakes >= 11

    asyncio.run(run())
