"""What becomes of a task, and what is written."""

from __future__ import annotations

from typing import Any

import pytest

from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.message import DEFAULT_TIMEOUT, MAX_ERROR_BYTES, decode, stored_error
from runqy_agent.broker.settle import NEVER, Policy, Settled
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from runqy_agent.retry_delays import fixed_retry_delay
from task_kit import NOW, NOW_NS, taken

DAY = 24 * 3600


def settle(outcome: Outcome, policy: Policy | None = None, **fields: object) -> Settled:
    return (policy or Policy(retry_delay=fixed_retry_delay(60))).settle(taken(**fields), outcome, NOW_NS)  # type: ignore[arg-type]


def stored(settled: Settled) -> TaskMessage:
    raw = settled.values[0]
    assert isinstance(raw, bytes)
    return TaskMessage.FromString(raw)


# Failures.


def test_a_failure_is_retried_while_retries_remain_and_is_counted() -> None:
    settled = settle(Failure("broken"), retry=3, retried=2)
    assert (settled.step, settled.values[1:3]) == ("retry", (NOW + 60, "1"))
    message = stored(settled)
    assert (message.retried, message.error_msg, message.last_failed_at) == (3, "broken", NOW)


@pytest.mark.parametrize(("retry", "retried"), [(3, 3), (3, 4), (0, 0)])
def test_a_failure_with_no_retries_left_is_archived(retry: int, retried: int) -> None:
    settled = settle(Failure("broken"), retry=retry, retried=retried)
    assert settled.step == "archive"
    message = stored(settled)
    assert (message.retried, message.error_msg, message.last_failed_at) == (retried, "broken", NOW)


def test_a_failure_that_is_not_to_be_retried_is_archived_at_once() -> None:
    assert settle(Failure("broken", retry=False), retried=0).step == "archive"
    assert settle(Failure("broken", retry=False, counted=False), retried=0).step == "archive"


@pytest.mark.parametrize(
    ("ceiling", "retried", "step"),
    [(None, 9, "retry"), (5, 4, "retry"), (5, 5, "archive"), (0, 0, "archive"), (50, 10, "archive")],
)
def test_the_workers_ceiling_lowers_the_tasks_own_limit_and_never_raises_it(
    ceiling: int | None, retried: int, step: str
) -> None:
    policy = Policy(max_retry=ceiling, retry_delay=fixed_retry_delay(0))
    assert settle(Failure("x"), policy, retry=10, retried=retried).step == step


def test_an_uncounted_failure_uses_no_retry_up_but_needs_one() -> None:
    settled = settle(Failure("x", counted=False), retry=3, retried=2)
    assert (settled.step, settled.values[2], stored(settled).retried) == ("retry", "", 2)
    assert settle(Failure("x", counted=False), retry=3, retried=3).step == "archive"  # as asynq decides


def test_the_delay_rule_is_asked_with_the_retries_used_before_this_one() -> None:
    asked: list[tuple[int, str, str]] = []

    def rule(retried: int, error: str, task: object) -> float:
        asked.append((retried, error, getattr(task, "id", "")))
        return 7.4

    settled = settle(Failure("oh"), Policy(retry_delay=rule), retried=1)
    assert asked == [(1, "oh", "t1")]
    assert settled.values[1] == NOW + 7


def test_a_failure_that_names_its_delay_is_not_asked_about() -> None:
    assert settle(Failure("x", delay=2.0)).values[1] == NOW + 2


@pytest.mark.parametrize("delay", [-1.0, -1e300])
def test_a_delay_is_never_in_the_past(delay: float) -> None:
    assert settle(Failure("x"), Policy(retry_delay=lambda *_: delay)).values[1] == NOW


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), "soon", None])
def test_a_delay_rule_that_fails_does_not_keep_the_outcome_from_being_written(
    delay: object, caplog: pytest.LogCaptureFixture
) -> None:
    settled = settle(Failure("x"), Policy(retry_delay=lambda *_: delay))  # type: ignore[arg-type]
    assert settled.step == "retry"
    assert NOW + 15 <= int(settled.values[1]) <= NOW + 45
    assert "retry delay of task t1" in caplog.text


@pytest.mark.parametrize(("own", "written"), [(None, 259_200), (0, 0), (60, 60)])
def test_the_tasks_own_ttl_of_the_archive_wins(own: int | None, written: int) -> None:
    settled = settle(Failure("x", retry=False), ttl_archived=own)
    assert settled.values[1:] == ("", "", "", written)


# Success.


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("retention", [0, 600])
@pytest.mark.parametrize("own", [None, 0, 60])
def test_how_long_a_completed_task_is_kept(store: bool, retention: int, own: int | None) -> None:
    policy = Policy(store_results=store, ttl_completed=DAY)
    settled = settle(Success(b"1"), policy, retention=retention, ttl_completed=own, unique_key="lock")
    ttl = own if own is not None else retention or (DAY if store else None)
    if ttl is None:
        assert (settled.step, settled.values) == ("done", ("", "lock", "", "", ""))
    else:
        expires_at = NOW + ttl if ttl else NEVER
        assert settled.step == "complete"
        assert settled.values[1:] == ("lock", expires_at, b"1" if store else b"", ttl)
        assert stored(settled).completed_at == NOW


def test_a_success_without_result_stores_none() -> None:
    assert settle(Success(), Policy(store_results=True), retention=60).values[3] == b""


# Neither.


def test_a_revoked_task_leaves_redis_whatever_its_retention() -> None:
    settled = settle(Revoked(), retention=600, unique_key="lock")
    assert (settled.step, settled.values) == ("done", ("", "lock", "", "", ""))


def test_an_unstarted_task_goes_back_with_its_message_untouched() -> None:
    task = taken(retried=1, error_msg="before")
    before = task.message.SerializeToString(deterministic=True)
    settled = Policy().settle(task, Unstarted(), NOW_NS)
    assert (settled.step, settled.values) == ("requeue", ("", NOW_NS, "", "", ""))
    assert task.message.SerializeToString(deterministic=True) == before


# Error texts.


@pytest.mark.parametrize(
    "text", ["x" * 200_000, "é" * 100_000, "a" + "\U0001f600" * 60_000, "x" * (MAX_ERROR_BYTES + 1)]
)
def test_a_long_error_is_stored_within_64_kib_with_both_its_ends(text: str) -> None:
    kept = stored_error("BEGIN" + text + "END")
    assert len(kept.encode()) <= MAX_ERROR_BYTES
    assert kept.startswith("BEGIN")
    assert kept.endswith("END")
    assert "bytes left out" in kept
    assert "\ufffd" not in kept


@pytest.mark.parametrize("text", ["", "short", "x" * MAX_ERROR_BYTES])
def test_an_error_that_fits_is_stored_as_it_is(text: str) -> None:
    assert stored_error(text) == text


def test_an_error_that_is_no_unicode_is_stored_all_the_same() -> None:
    assert stored(settle(Failure("half \ud800 of a pair"))).error_msg == "half ? of a pair"


# Messages.


def test_a_message_is_decoded() -> None:
    raw = TaskMessage(id="a", type="t", payload=b"\xff").SerializeToString()
    message, reason = decode(raw, "a", "q")
    assert (message.id, message.payload, reason) == ("a", b"\xff", "")


def test_fields_unknown_to_us_survive_that_a_message_is_written_back() -> None:
    unknown = b"\xaa\x06\x03abc" + b"\xb0\x06\x07"  # field 101, a string, and field 102, a number
    raw = TaskMessage(id="t1", type="t", retry=3).SerializeToString() + unknown
    message, _ = decode(raw, "t1", "q")
    task = taken()
    task.message = message
    written = Policy().settle(task, Failure("x"), NOW_NS).values[0]
    assert isinstance(written, bytes)
    assert unknown in written


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "the task's hash has no field msg"),
        (b"\xff\xff", "the stored message (2 bytes) is not a valid asynq message"),
        (b"\x0a\x02\xff\xfe", "the stored message (4 bytes) is not a valid asynq message"),
        (TaskMessage(id="other").SerializeToString(), "the stored message (7 bytes) names the task 'other' instead"),
        (b"", "the stored message (0 bytes) names the task '' instead"),
    ],
)
def test_what_is_no_message_of_the_task_is_replaced_by_one_that_keeps_the_bytes(raw: bytes | None, reason: str) -> None:
    message, found = decode(raw, "a", "q")
    assert found == reason
    assert (message.id, message.queue, message.payload) == ("a", "q", raw or b"")


def test_an_id_that_is_not_utf_8_can_be_archived() -> None:
    task_id = b"\xff".decode("utf-8", "surrogateescape")
    message, reason = decode(TaskMessage(id="x").SerializeToString(), task_id, "q")
    assert reason
    assert TaskMessage.FromString(message.SerializeToString()).id == "?"


@pytest.mark.parametrize(
    ("fields", "worker", "expected"),
    [
        ({"timeout": 10, "deadline": NOW + 5}, 0, 5),
        ({"timeout": 10, "deadline": NOW + 50}, 0, 10),
        ({"timeout": 10}, 99, 10),
        ({"deadline": NOW + 5}, 99, 5),
        ({"deadline": NOW + 5, "active_timeout": 2}, 99, 5),
        ({}, 0, DEFAULT_TIMEOUT),
        ({}, 99, 99),
        ({"active_timeout": 7}, 99, 7),
        ({"active_timeout": 0}, 99, DEFAULT_TIMEOUT),
        ({"active_timeout": -5}, 99, DEFAULT_TIMEOUT),
        ({"active_timeout": 10**400}, 99, 10**12),
    ],
)
def test_a_run_ends_at_the_earlier_of_timeout_and_deadline_else_by_the_fallbacks(
    fields: dict[str, Any], worker: float, expected: int
) -> None:
    task = taken(**fields)
    task.limit(worker, offset=NOW - 1000)  # the deadline is Redis' time, and it is 1000 here
    task.begin(1000.0)
    assert task.deadline == 1000 + expected


def test_the_timeout_counts_from_the_beginning_of_the_run_and_the_deadline_does_not_wait_for_it() -> None:
    task = taken(timeout=10, deadline=NOW + 60)
    task.limit(0, offset=NOW - 1000)
    assert task.deadline == 1060
    task.begin(1030.0)
    assert task.deadline == 1040
    late = taken(timeout=10, deadline=NOW + 60)
    late.limit(0, offset=NOW - 1000)
    late.begin(1055.0)
    assert late.deadline == 1060


@pytest.mark.parametrize(
    ("fields", "over"),
    [
        ({"deadline": NOW}, True),
        ({"deadline": NOW - 3600, "timeout": 10}, True),
        ({"deadline": NOW + 1}, False),
        ({"deadline": -1}, True),
        ({"timeout": -1}, True),
        ({"timeout": 1}, False),
        ({}, False),
    ],
)
def test_a_task_is_over_once_its_deadline_is_reached_by_the_clock_of_redis(fields: dict[str, Any], over: bool) -> None:
    task = taken(**fields)
    task.limit(0, offset=NOW - 1000)
    assert task.is_over(1000.0) is over
