"""The log holds no secret, and the figures of the cards are read."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from runqy_agent.config.settings import LogSettings
from runqy_agent.redaction import Redactor
from runqy_agent.reporting.logs import JournalFormatter, JsonFormatter, TextFormatter, configure_logging
from runqy_agent.reporting.metrics import _parse_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = 'p4ss"w\\ord\nwith all'


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add([SECRET, "short-secret", "short-secret-and-more", "abc"])
    return made


def record(message: str, *args: object, **context: object) -> logging.LogRecord:
    made = logging.LogRecord("runqy_agent.x", logging.WARNING, "x.py", 1, message, args, None)
    made.created = 1_800_000_000.25
    vars(made).update(context)
    return made


def failing_record() -> logging.LogRecord:
    made = record("it failed")
    try:
        int(SECRET)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_the_longest_secret_goes_first_so_that_nothing_of_it_stays(redactor: Redactor) -> None:
    assert redactor.redact("a short-secret-and-more b short-secret c") == "a *** b *** c"


def test_a_secret_learnt_later_is_redacted_too(redactor: Redactor) -> None:
    redactor.add(["learnt-later", "short-secret"])
    assert redactor.redact("learnt-later, short-secret") == "***, ***"


@pytest.mark.parametrize("form", [repr, json.dumps, lambda secret: quote(secret, safe="")])
def test_a_secret_in_quotes_or_in_a_url_is_still_a_secret(form: Callable[[str], str], redactor: Redactor) -> None:
    assert redactor.redact(f"see {form(SECRET)}").replace("'", '"').replace('"', "") == "see ***"


def test_a_secret_of_several_lines_is_redacted_in_a_log_of_single_lines(redactor: Redactor) -> None:
    redactor.add(["-----BEGIN KEY-----\nMIIEvgIBADANBg\n-----END KEY-----\n"])
    assert redactor.redact("MIIEvgIBADANBg") == "***"


@pytest.mark.parametrize("kept", range(1, 12))
def test_what_a_cut_has_left_of_a_secret_goes_too(kept: int) -> None:
    redactor = Redactor()
    redactor.add(["hush-secret-1"])
    assert redactor.redact_cut("token: " + "hush-secret-1"[:kept]) == "token: "
    assert redactor.redact_cut(f"hush-secret-1 and {'hush-secret-1'[:kept]}") == "*** and "
    assert redactor.redact_cut("nothing of that kind") == "nothing of that kind"


def test_a_whole_secret_that_reaches_into_half_of_another_is_not_cut_in_two() -> None:
    redactor = Redactor()
    redactor.add(["abcdefgh", "ghijklmn"])
    assert redactor.redact_cut("x abcdefghij") == "x "


def test_values_too_short_to_be_told_from_words_are_left_alone(redactor: Redactor) -> None:
    assert redactor.redact("abc and nothing") == "abc and nothing"
    assert Redactor().redact("x") == "x"


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter, JournalFormatter])
def test_no_secret_in_message_arguments_context_or_traceback(
    formatter: Callable[[Redactor], logging.Formatter], redactor: Redactor
) -> None:
    for entry in (
        record("password is %s", SECRET),
        record(f"password is {SECRET}"),
        record("printed", source=f"stdout {SECRET}"),
        failing_record(),
    ):
        text = formatter(redactor).format(entry)
        assert "***" in text
        assert SECRET not in text
        assert json.dumps(SECRET)[1:-1] not in text
    assert "Traceback" in formatter(redactor).format(failing_record())


def test_a_json_line_has_time_level_logger_message_and_context(redactor: Redactor) -> None:
    line = JsonFormatter(redactor).format(record("hello\n%s", "wörld", queue="q", child=7))
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": 1_800_000_000_250,
        "level": "warning",
        "logger": "runqy_agent.x",
        "message": "hello\nwörld",
        "queue": "q",
        "child": 7,
    }


def test_a_text_line_has_the_context_in_brackets(redactor: Redactor) -> None:
    line = TextFormatter(redactor).format(record("hello", queue="q", source="stderr"))
    assert line.endswith("WARNING hello [queue=q source=stderr]")
    assert TextFormatter(redactor).format(record("hello")).endswith("WARNING hello")


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (25, 6)],
)
def test_a_line_for_the_journal_has_its_level_first_and_no_time(level: int, number: int, redactor: Redactor) -> None:
    entry = record("hello", queue="q")
    entry.levelno = level
    assert JournalFormatter(redactor).format(entry) == f"<{number}>hello [queue=q]"


def test_each_line_of_a_message_for_the_journal_has_its_level(redactor: Redactor) -> None:
    assert JournalFormatter(redactor).format(record("a\n\nb <3>c")) == "<4>a\n<4>\n<4>    b <3>c"
    lines = JournalFormatter(redactor).format(failing_record()).splitlines()
    assert lines[:2] == ["<4>it failed", "<4>    Traceback (most recent call last):"]
    assert all(line.startswith("<4>") for line in lines)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("form", "terminal", "is_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)  # fmt: skip
def test_the_form_of_the_log_follows_the_setting_and_auto_follows_the_terminal(
    form: Any,
    terminal: bool,
    is_json: bool,
    redactor: Redactor,
    root_logger: logging.Logger,
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    configure_logging(LogSettings(level="info", format=form), redactor, stream)
    logging.getLogger("x").debug("unseen")
    logging.getLogger("x").info("seen short-secret")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("{") == is_json
    assert "seen ***" in line
    assert len(root_logger.handlers) == 1


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize(
    ("form", "variable", "begins"),
    [
        ("auto", "{device}:{inode}", "<6>seen"),
        ("auto", "{device}:1{inode}", "{"),
        ("auto", "", "{"),
        ("journald", "", "<6>seen"),
        ("text", "{device}:{inode}", "2"),
        ("json", "{device}:{inode}", "{"),
    ],
)
def test_auto_is_for_the_journal_only_where_the_stream_leads_there(
    form: Any, variable: str, begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        file = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", variable.format(device=file.st_dev, inode=file.st_ino))
        configure_logging(LogSettings(format=form), Redactor(), stream)
        logging.getLogger("x").info("seen")
    assert path.read_text().startswith(begins)


def test_a_card_is_read() -> None:
    assert _parse_gpu("1, NVIDIA A100-SXM4-80GB, 37, 1024, 81920, 54") == {
        "index": 1,
        "name": "NVIDIA A100-SXM4-80GB",
        "utilization_percent": 37.0,
        "memory_used_mb": 1024.0,
        "memory_total_mb": 81920.0,
        "temperature_c": 54.0,
    }


def test_what_a_card_does_not_tell_is_zero() -> None:
    card = _parse_gpu("0, Tesla, [N/A], 5, 10, [Not Supported]")
    assert card is not None
    assert (card["utilization_percent"], card["temperature_c"], card["memory_used_mb"]) == (0.0, 0.0, 5.0)


@pytest.mark.parametrize(
    "line", ["", "No devices were found", "x, y, 1, 2, 3, 4", "0, a, 1, 2, 3", "0, a, b, 1, 2, 3, 4"]
)
def test_a_line_that_describes_no_card_is_none(line: str) -> None:
    assert _parse_gpu(line) is None
