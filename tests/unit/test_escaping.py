"""Nothing that comes from outside steers a terminal or forges a line of the log."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from runqy_agent.escaping import escape, escape_lines, to_json
from runqy_agent.redaction import Redactor
from runqy_agent.reporting.logs import JournalFormatter, JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from collections.abc import Callable

UNSAFE = [
    *(chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) != "\t"),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u206a\u206f",
    *"\ufeff\ufff9\ufffb\ud800\udbff\udc1b\udfff\U000e0001\U000e0041\U000e007f",
]
HARMLESS = "plain, with\ttab, wörld, 日本語, العربية, עברית, \U0001f469\u200d\U0001f52c and \\x1b"
FORGED = "2026-11-28 00:00:00 INFO    running: concurrency 4"

Formatter = TextFormatter | JsonFormatter | JournalFormatter


@pytest.mark.parametrize("character", UNSAFE, ids=ascii)
def test_what_is_not_shown_as_itself_is_shown_as_its_escape(character: str) -> None:
    shown = escape(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape").encode("utf-16", "surrogatepass") == f"a{character}b".encode(
        "utf-16", "surrogatepass"
    )


def test_words_of_every_language_stay_as_they_are() -> None:
    assert escape(HARMLESS) == HARMLESS
    assert json.loads(to_json(HARMLESS)) == HARMLESS
    assert "日本語" in to_json(HARMLESS)


def test_line_breaks_stay_where_lines_are_wanted_and_every_other_line_is_indented() -> None:
    assert escape_lines("a\nb\x1b\r\n\nc\u2028d", "  ") == "a\n  b\\x1b\\r\n\n  c\\u2028d"


@pytest.mark.parametrize("character", UNSAFE, ids=ascii)
def test_json_is_one_safe_line_with_the_same_content(character: str) -> None:
    text = to_json({f"k{character}": [f"a{character}b"]})
    assert escape(text) == text
    safe = escape(character) if "\ud800" <= character <= "\udfff" else character
    assert json.loads(text) == {f"k{safe}": [f"a{safe}b"]}
    text.encode()


def record(message: str, *args: object, **context: object) -> logging.LogRecord:
    made = logging.LogRecord("runqy_agent.x", logging.INFO, "x.py", 1, message, args, None)
    vars(made).update(context)
    return made


def failing(words: str) -> logging.LogRecord:
    made = record("it failed")
    try:
        int(words)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter, JournalFormatter])
@pytest.mark.parametrize(
    "character", ["\n", "\r", "\r\n", "\x1b[1A\x1b[2K", "\x85", "\u2028", "\u2029", "\x0b", "\x0c"]
)
def test_no_line_of_the_log_is_forged(form: Callable[[Redactor], Formatter], character: str) -> None:
    forged = f"x{character}{FORGED}{character}<3>{FORGED}"
    entries = [
        record("task %s has ended", forged),
        record(forged),
        record("printed", source=forged, task=forged, queue=forged),
        failing(forged),
    ]
    for entry in entries:
        text = form(Redactor()).format(entry)
        assert FORGED in text
        assert "\x1b" not in text
        for line in text.splitlines()[1:]:
            assert line.startswith(("    ", "<6>    "))
        assert not any(line.removeprefix("<6>").startswith(("2026", "<")) for line in text.splitlines()[1:])


@pytest.mark.parametrize("form", [TextFormatter, JournalFormatter])
def test_a_traceback_keeps_its_lines(form: Callable[[Redactor], Formatter]) -> None:
    lines = form(Redactor()).format(failing("words")).splitlines()
    assert lines[1].endswith("    Traceback (most recent call last):")
    assert lines[-1].endswith("    ValueError: invalid literal for int() with base 10: 'words'")


def test_what_is_escaped_is_redacted_first() -> None:
    redactor = Redactor()
    redactor.add(["hush\x1bhush"])
    for form in (TextFormatter, JsonFormatter, JournalFormatter):
        text = form(redactor).format(record("a %s", "hush\x1bhush", queue="hush\x1bhush"))
        assert text.count("***") == 2
        assert "hush" not in text
