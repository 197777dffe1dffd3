"""The messages that the real asynq wrote."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runqy_agent.broker.asynq_pb2 import TaskMessage
from runqy_agent.broker.message import decode
from vectors_kit import load

MESSAGES: list[dict[str, Any]] = load("asynq_messages.json")


@pytest.mark.parametrize("recorded", MESSAGES, ids=range(len(MESSAGES)))
def test_a_recorded_message_decodes_to_its_fields(recorded: dict[str, Any]) -> None:
    message, malformed = decode(base64.b64decode(recorded["encoded_b64"]), recorded["id"], recorded["queue"])
    assert not malformed
    found = {name: getattr(message, name) for name in recorded if hasattr(message, name)}
    expected = {name: value for name, value in recorded.items() if name in found}
    found["headers"] = dict(message.headers) or None
    assert message.payload == base64.b64decode(recorded["payload_b64"])
    assert found == expected


@pytest.mark.parametrize("recorded", MESSAGES, ids=range(len(MESSAGES)))
def test_a_recorded_message_is_written_back_the_same(recorded: dict[str, Any]) -> None:
    encoded = base64.b64decode(recorded["encoded_b64"])
    written = TaskMessage.FromString(encoded).SerializeToString(deterministic=True)
    if len(recorded["headers"] or {}) <= 1:  # Go writes the entries of a larger map in random order
        assert written == encoded
    else:
        assert sorted(written) == sorted(encoded)


def test_fields_of_a_later_asynq_survive() -> None:
    encoded = base64.b64decode(MESSAGES[0]["encoded_b64"]) + b"\xa2\x06\x05later"  # field 100, bytes
    message = TaskMessage.FromString(encoded)
    message.retried += 1
    assert b"\xa2\x06\x05later" in message.SerializeToString()
