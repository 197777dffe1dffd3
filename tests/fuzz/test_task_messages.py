"""Whatever lies in Redis under a task's name, it is run or reported, and what is written back is a message."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.mutation import LONE_SURROGATE, cases, mutated
from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.flat import FlatBroker, FlatDefaults
from runqy_agent.broker.settle import Policy
from runqy_agent.outcome import Failure, Outcome, Revoked, Success, Unstarted
from runqy_agent.process.protocol import UnsendablePayloadError, decode_answer, encode_task
from set_clock import SetClock
from task_kit import NOW, NOW_NS
from vectors_kit import load

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask

RECORDED: list[dict[str, Any]] = load("asynq_messages.json")
ENCODED = [base64.b64decode(each["encoded_b64"]) for each in RECORDED]
IDS = [each["id"] for each in RECORDED]
QUEUE = "inference.default"
OUTCOMES: list[Outcome] = [
    Success(),
    Success(b'{"x":1}'),
    Failure("broken"),
    Failure(f"half a pair {LONE_SURROGATE} and nothing \x00" + "x" * 100_000),
    Failure("no more", retry=False),
    Failure("waits", delay=float(2**40)),
    Failure("uncounted", counted=False),
    Revoked(),
    Unstarted(),
]
STEPS = {"done", "complete", "retry", "archive", "requeue"}

_int32, _int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
built = st.builds(
    lambda **fields: TaskMessage(**fields).SerializeToString(),
    id=st.sampled_from(IDS),
    type=st.text(max_size=10),
    queue=st.text(max_size=10),
    payload=st.binary(max_size=200) | st.sampled_from([b"[" * 3000, b"\xff", b'"\\ud800"', b'{"a":\n1}']),
    retry=_int32,
    retried=_int32,
    timeout=_int64,
    deadline=_int64,
    retention=_int64,
    unique_key=st.text(max_size=10),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
numbers = st.none() | st.sampled_from(
    [b"", b"0", b"-1", b"60", b"1.5", b"x", b"\xff", b"9" * 30, b"9" * 5000, b" 7 ", b"1_0", "٣".encode(), b"-" * 9]
)
stored = mutated(ENCODED) | built | st.none()


def check(task: TakenTask) -> None:
    """What the worker does with a taken task, with every outcome it can have."""
    task.limit(0, 0.0)
    task.begin(NOW)
    assert isinstance(task.is_over(NOW), bool)
    if not task.malformed:
        try:
            line = encode_task(task)
        except UnsendablePayloadError:
            pass
        else:
            assert line.count(b"\n") == 1
            assert line.endswith(b"\n")
            line.decode("utf-8")
            decode_answer(line)
    before = task.message.SerializeToString()
    for outcome in OUTCOMES:
        for policy in (Policy(store_results=True), Policy(max_retry=0), Policy()):
            copy = replace(task, message=TaskMessage.FromString(before))
            settled = policy.settle(copy, outcome, NOW_NS)
            assert settled.step in STEPS
            assert len(settled.values) == 5
            for value in settled.values:
                value.encode("utf-8") if isinstance(value, str) else value
            if settled.step in {"complete", "retry", "archive"}:
                raw = settled.values[0]
                assert isinstance(raw, bytes)
                assert TaskMessage.FromString(raw).id == copy.message.id


@cases(2 / 9)
@given(
    stored,
    st.sampled_from(IDS).map(str.encode) | st.binary(min_size=1, max_size=20),
    st.lists(numbers, min_size=5, max_size=5),
)
def test_no_message_is_more_than_malformed(raw: bytes | None, task_id: bytes, fields: list[bytes | None]) -> None:
    broker = Broker(None, SetClock(NOW))  # type: ignore[arg-type]  # nothing is sent: only what a reply means is asked
    (task,) = broker._tasks(QUEUE, [task_id, raw, *fields], NOW + 30.5)
    check(task)


@cases(1 / 9)
@given(
    st.none() | mutated(ENCODED),
    st.lists(numbers, min_size=5, max_size=5),
    st.lists(numbers | st.binary(max_size=20), min_size=7, max_size=7),
)
def test_no_hash_of_the_flat_layout_is_more_than_malformed(
    raw: bytes | None, stamps: list[bytes | None], fields: list[bytes | None]
) -> None:
    broker = FlatBroker(None, SetClock(NOW), FlatDefaults())  # type: ignore[arg-type]  # as above
    (task,) = broker._tasks(QUEUE, [IDS[0].encode(), raw, *stamps, *fields], NOW + 30.5)
    check(task)
