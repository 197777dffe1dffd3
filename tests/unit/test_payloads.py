"""How a payload reaches the task author's process."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runqy_agent.process.protocol import UnsendablePayloadError, encode_payload, encode_task
from task_kit import taken


def sent(payload: bytes) -> tuple[bytes, str | None]:
    """The bytes that stand behind ``"payload":`` on the line, and the encoding that is named."""
    value, encoding = encode_payload(payload)
    return (bytes(value) if isinstance(value, msgspec.Raw) else json.dumps(value).encode()), encoding


def line(payload: bytes) -> dict[str, object]:
    written = encode_task(taken(payload=payload))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    parsed: dict[str, object] = json.loads(written)
    return parsed


def is_json(payload: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(payload.decode("utf-8"), parse_constant=refuse)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"0",
        b"-0",
        b"1e400",
        b"1.10",
        b"1.0000000000000000000000000001",
        b"123456789012345678901234567890",
        b"9" * 10_000,
        b'{"z":1,"a":2,"z":3}',
        b'{"a" : [1 ,2,\t3 ] }',
        b'"\\u00e9\\n\\/"',
        b'"\\ud800"',
        b'{"half":"\\udc00","whole":"\\ud83d\\ude00"}',
        '"é\u2028\U0001f600"'.encode(),
    ],
)
def test_json_is_passed_through_byte_for_byte(payload: bytes) -> None:
    assert sent(payload) == (payload, None)


def test_white_space_around_json_does_not_make_it_a_string() -> None:
    assert sent(b' \r\n{"a":1}\n') == (b'{"a":1}', None)


def test_line_breaks_between_tokens_are_removed_and_nothing_else() -> None:
    pretty = b'{\r\n  "text": "one\\ntwo",\n  "n": [1.50,\n2]\n}'
    assert sent(pretty) == (b'{  "text": "one\\ntwo",  "n": [1.50,2]}', None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"hello",
        b"NaN",
        b"[1,]",
        b"01",
        b"{'a': 1}",
        b"1 2",
        b'"a\nb"',
        b'"\\q"',
        b"\xef\xbb\xbf{}",
        b'\xef\xbb\xbf"\\ud800"',
        b'"\x00\\u"\x00',
        "grüße\n".encode(),
        b"\x00",
    ],
)
def test_text_that_is_no_json_becomes_a_string(payload: bytes) -> None:
    assert line(payload)["payload"] == payload.decode()
    assert "payload_encoding" not in line(payload)


@pytest.mark.parametrize("payload", [b"\xff", b"\x80abc", b'"\xff"', b"{}\xc3", b"\xed\xa0\x80", bytes(range(256))])
def test_bytes_that_are_no_text_become_base64_and_say_so(payload: bytes) -> None:
    parsed = line(payload)
    assert parsed["payload_encoding"] == "base64"
    assert base64.b64decode(str(parsed["payload"])) == payload


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:0123456789.eE+-\\undtrls \n\r\t\x00é', max_size=30).map(str.encode)
)
@example(b'{"a":\n"b"}')
def test_every_payload_arrives_on_one_line_and_can_be_read_back(payload: bytes) -> None:
    parsed = line(payload)
    if parsed.get("payload_encoding") == "base64":
        assert base64.b64decode(str(parsed["payload"])) == payload
    elif is_json(payload):
        assert parsed["payload"] == json.loads(payload)
    else:
        assert parsed["payload"] == payload.decode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_whatever_the_layout_of_json_its_value_arrives(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(sent(text.encode("utf-8", "replace"))[0]) == json.loads(text.encode("utf-8", "replace"))


def test_json_nested_hundreds_deep_is_passed_through() -> None:
    payload = b"[" * 500 + b"]" * 500
    assert sent(payload) == (payload, None)


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_json_nested_too_deeply_for_any_reader_is_refused_and_not_sent_as_a_string(depth: int) -> None:
    with pytest.raises(UnsendablePayloadError, match="nested too deeply"):
        encode_payload(b"[" * depth + b"]" * depth)


def test_a_task_line_has_the_fields_of_the_seed_in_their_order() -> None:
    task = taken("id-1", b'{"a":1}', type="email:send", queue="q.high", retried=2, retry=5)
    assert encode_task(task) == (
        b'{"task_id":"id-1","type":"email:send","payload":{"a":1},"retry_count":2,"max_retry":5,"queue":"q.high"}\n'
    )


def test_headers_are_on_the_line_when_there_are_any() -> None:
    parsed = json.loads(encode_task(taken(headers={"trace": "42"})))
    assert parsed["headers"] == {"trace": "42"}
    assert "headers" not in json.loads(encode_task(taken()))
