"""The messages that the real asynq wrote."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.message import decode
from runqy_agent.broker.settle import Policy
from runqy_agent.outcome import Failure, Outcome, Success
from task_kit import NOW_NS, taken
from vectors_kit import load

MESSAGES: list[dict[str, Any]] = load("asynq_messages.json")

every_message = pytest.mark.parametrize("recorded", MESSAGES, ids=range(len(MESSAGES)))

LATER = {
    "number": b"\xa0\x06\x96\x01",  # field 100
    "eight bytes": b"\xa9\x06\x01\x02\x03\x04\x05\x06\x07\x08",  # field 101
    "text": b"\xb2\x06\x05later",  # field 102
    "four bytes": b"\xbd\x06\x01\x02\x03\x04",  # field 103
}


@every_message
def test_a_recorded_message_decodes_to_its_fields(recorded: dict[str, Any]) -> None:
    message, malformed = decode(base64.b64decode(recorded["encoded_b64"]), recorded["id"], recorded["queue"])
    assert not malformed
    found = {name: getattr(message, name) for name in TaskMessage.DESCRIPTOR.fields_by_name}
    found["headers"] = dict(message.headers) or None
    found["payload_b64"] = base64.b64encode(found.pop("payload")).decode()
    expected = {name: value for name, value in recorded.items() if name != "encoded_b64"}
    assert found == expected


@every_message
def test_a_recorded_message_is_written_back_the_same(recorded: dict[str, Any]) -> None:
    encoded = base64.b64decode(recorded["encoded_b64"])
    written = TaskMessage.FromString(encoded).SerializeToString()
    if len(recorded["headers"] or {}) <= 1:
        assert written == encoded
    else:  # Go writes the entries of a larger map in random order
        assert len(written) == len(encoded)
        assert TaskMessage.FromString(written) == TaskMessage.FromString(encoded)


def test_several_headers_are_read_in_whatever_order_go_wrote_them() -> None:
    plain = TaskMessage(type="t", payload=b"{}", id="1", queue="q").SerializeToString()
    entries = [
        TaskMessage(headers={name: value}).SerializeToString() for name, value in (("a", "1"), ("b", ""), ("", "3"))
    ]
    forward = TaskMessage.FromString(plain + b"".join(entries))
    backward = TaskMessage.FromString(plain + b"".join(reversed(entries)))
    assert dict(forward.headers) == dict(backward.headers) == {"a": "1", "b": "", "": "3"}
    assert forward.SerializeToString(deterministic=True) == backward.SerializeToString(deterministic=True)
    assert len(forward.SerializeToString()) == len(plain) + sum(map(len, entries))


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize(
    "outcome", [Success(), Failure("broken"), Failure("broken", retry=False)], ids=["complete", "retry", "archive"]
)
@every_message
def test_fields_of_a_later_asynq_survive_every_step_that_writes_a_message(
    recorded: dict[str, Any], outcome: Outcome, later: bytes
) -> None:
    message = TaskMessage.FromString(base64.b64decode(recorded["encoded_b64"]) + later)
    task = taken(message.id, queue=message.queue)
    task.message, task.ttl_completed = message, 60
    settled = Policy().settle(task, outcome, NOW_NS)
    written = settled.values[0]
    assert isinstance(written, bytes)
    assert later in written
    known = TaskMessage.FromString(written)
    known.DiscardUnknownFields()
    assert len(known.SerializeToString()) == len(written) - len(later)
