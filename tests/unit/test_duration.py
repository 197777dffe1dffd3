from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy_agent.config import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("0s", 0),
        ("30s", 30),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("2h", 7200),
        ("100us", 1e-4),
        ("100\u00b5s", 1e-4),
        ("100\u03bcs", 1e-4),
        ("10ns", 1e-8),
        (" 5s ", 5),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("+", "empty"),
        ("-5s", "negative"),
        ("30", 'did you mean "30s"?'),
        ("1.5", 'did you mean "1.5s"?'),
        ("5 s", "not a duration"),
        ("5d", "not a duration"),
        ("s", "not a duration"),
        ("\u0663s", "not a duration"),
        ("9999999h", "292 years"),
        ("9" * 400 + "h", "292 years"),
    ],
)
def test_a_malformed_duration_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="allowed is a duration such as 30s") as caught:
        parse_duration(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (90, "1m30s"), (3600, "1h"), (0.5, "500ms"), (3661.25, "1h1m1.25s"), (0.00025, "250us"), (1e-9, "1ns")],
)
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=9e9, allow_nan=False))
def test_a_written_duration_reads_back_as_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5, abs=1e-3)


@given(st.floats(min_value=1e-9, max_value=1))
def test_a_short_duration_keeps_its_precision(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) >= 0
