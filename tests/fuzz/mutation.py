"""Examples made worse: bytes, JSON and protobuf that somebody broken, or hostile, could send."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Test = TypeVar("_Test", bound="Callable[..., None]")

CASES = int(os.environ.get("RUNQY_FUZZ_CASES", "3000"))
"""Cases in all, of the lines, answers and messages together."""

LONE_SURROGATE = "\ud800"
_NASTY_BYTES: Sequence[bytes] = (
    *(b"\x00", b"\n", b"\r\n", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\\ud800"),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"9" * 5000, b"1" + b"0" * 308 + b".5", b"0x1", b"1_000"),
    *(b"[" * 2000, b'{"a":' * 2000, b"]" * 50, b'"', b"\\", b"/**/", b"null", b"true", b"{}", b'"\\u0000"'),
    *(b"\xff" * 10, b"\x80" * 11, b"\x08", b"\x0b", b"\x07"),  # for protobuf: varints without an end, groups
)
_DEEP, _HUGE = "@deep@", "@huge@"
"""Stand in the structure for what Python itself would not write."""
_NASTY_VALUES: Sequence[Any] = (
    *(None, True, False, 0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, float("nan"), float("inf"), -0.0),
    *(
        "",
        " ",
        "\x00",
        "a\nb",
        LONE_SURROGATE,
        "x" * 70_000,
        "-x",
        "../..",
        "ext::sh",
        "NaN",
        _HUGE,
        "🦊",
        "a:b.c",
        ":",
        ".",
    ),
    *([], {}, [[]], {"": ""}, [None], {"a": {"a": {}}}),
)


def cases(share: float) -> Callable[[_Test], _Test]:
    """Settings of a test with this share of all cases."""
    return settings(
        max_examples=max(1, round(CASES * share)),
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


def _change(draw: st.DrawFn, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """One mutation of bytes."""
    at = draw(st.integers(0, len(data)))
    end = min(len(data), at + draw(st.integers(0, 40)))
    kind = draw(st.sampled_from(("flip", "cut", "drop", "repeat", "insert", "replace", "splice", "swap")))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :] if at < len(data) else data
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[end:]
    if kind == "repeat":
        return data[:end] + data[at:end] * draw(st.sampled_from((1, 2, 300))) + data[end:]
    if kind == "insert":
        return data[:at] + draw(st.sampled_from(_NASTY_BYTES)) + data[at:]
    if kind == "replace":
        return data[:at] + draw(st.sampled_from(_NASTY_BYTES)) + data[end:]
    if kind == "splice":
        other = draw(st.sampled_from(corpus))
        return data[:at] + other[draw(st.integers(0, len(other))) :]
    return data[:at] + draw(st.binary(max_size=end - at)) + data[end:]


@st.composite
def mutated(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    """An example of the corpus after up to five mutations."""
    data = draw(st.sampled_from(corpus))
    for _ in range(draw(st.integers(0, 5))):
        data = _change(draw, data, corpus)
    return data


json_values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(_NASTY_VALUES) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def altered(draw: st.DrawFn, corpus: Sequence[dict[str, Any]]) -> bytes:
    """JSON of an example's structure, with values swapped, removed, added, renamed or nested deeply."""
    value = json.loads(json.dumps(draw(st.sampled_from(corpus))))
    for _ in range(draw(st.integers(1, 4))):
        place = value
        while True:
            keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys)) if keys else None
            inner = place[key] if key is not None else None
            if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
                place = inner
                continue
            break
        kind = draw(st.sampled_from(("set", "remove", "add", "deep")))
        if kind == "add" and isinstance(place, dict):
            place[draw(st.text(max_size=10))] = deepcopy(draw(json_values))
        elif key is not None and kind == "remove":
            del place[key]
        elif key is not None and kind == "deep":
            place[key] = _DEEP
        elif key is not None:
            place[key] = deepcopy(draw(json_values))
    depth = draw(st.sampled_from((3, 500, 990, 3000, 20_000)))
    opened, closed = draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    text = text.replace(f'"{_DEEP}"', opened * depth + "1" + closed * depth).replace(f'"{_HUGE}"', "9" * 5000)
    return text.encode("utf-8", "surrogatepass")
