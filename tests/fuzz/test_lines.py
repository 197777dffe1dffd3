"""Whatever a process writes, the agent reads it to the end, and the same however the pipe cuts it up."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.mutation import altered, cases, json_values, mutated
from runqy_agent.broker.message import stored_error
from runqy_agent.outcome import Failure, Success
from runqy_agent.process.glued import split_glued
from runqy_agent.process.lines import KEPT_OF_LONG_LINE, KEPT_OF_PRINTING, LineSplitter, LongLine
from runqy_agent.process.protocol import Response, StartFailed, decode_answer, decode_start, progressing_task

LIMIT = 40_000
MESSAGES: list[dict[str, Any]] = [
    {"task_id": "037c4d7b-bb04-07d1", "result": {"x": 1.5, "y": [None, "é"]}, "error": None, "retry": False},
    {"task_id": "a", "result": None, "error": "ValueError: no", "retry": True},
    {"task_id": "a", "result": "🦊\ud800", "error": {"code": 5, "more": [1, 2]}, "retry": "yes"},
    {"status": "ready", "pid": 7},
    {"status": "error", "error": "no GPU"},
    {"task_id": "b", "result": "x" * 2000},
]
LINES = [json.dumps(message).encode() for message in MESSAGES]
LINES += [json.dumps(message, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass") for message in MESSAGES]
LINES += [b"\x1b[2K\r 40%|####  | 4/10" + json.dumps(MESSAGES[0]).encode(), b"loading" + b" " * 20_000 + LINES[1]]
LINES += [
    LINES[0] + LINES[1] + b"\r",
    b'{"event":"answered","answer":%s}' % LINES[1],
    b'{"task_id":"a","progress":0.5}',
]
LINES += [b'{"task_id":"a","result":NaN}', b"loading the model", b"", b"Traceback (most recent call last):", b"[1, 2]"]

_fields = {"result": json_values, "error": json_values, "retry": json_values, "status": json_values}
_built = st.builds(
    lambda task, fields: json.dumps({"task_id": task} | fields).encode(),
    st.text(max_size=5),
    st.fixed_dictionaries({}, optional=_fields),
)
lines = mutated(LINES) | altered(MESSAGES) | _built


def read(stream: bytes, cuts: list[int]) -> list[bytes | LongLine]:
    """What the splitter makes of a stream that arrives in these pieces; its memory is looked at after each."""
    splitter, found = LineSplitter(LIMIT), []
    for start, end in pairwise([0, *sorted(at % (len(stream) + 1) for at in cuts), len(stream)]):
        found += list(splitter.feed(stream[start:end]))
        held = len(splitter._held) + len(splitter._tail)
        may_be_answer = re.search(rb'\A\s*\{|\{\s*"', splitter._held)
        assert held <= KEPT_OF_PRINTING + KEPT_OF_LONG_LINE + (LIMIT if may_be_answer else 0)
    rest = splitter.rest()
    return found if rest is None else [*found, rest]


def is_an_answer(line: bytes) -> bool:
    """Whether Python's own reader finds an object in it that the protocol calls an answer."""
    try:
        found = json.loads(line.decode("utf-8", "replace"), parse_int=len)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict) and isinstance(found.get("task_id"), str) and bool(found.keys() & {"result", "error"})
    )


def check(line: bytes | LongLine) -> None:
    """Understand a line as the agent does, down to what would be stored."""
    if isinstance(line, LongLine):
        assert line.size > LIMIT
        assert len(line.head) <= KEPT_OF_LONG_LINE
        assert len(line.tail) <= KEPT_OF_LONG_LINE
        task_id = line.task_id()
        assert task_id is None or isinstance(task_id, str)
        return
    answer = decode_answer(line)
    if answer is None:
        assert not is_an_answer(line), "its task would wait for ever"
        check_printing(line)
        return
    assert isinstance(answer.retry, bool)
    outcome = answer.outcome()
    if isinstance(outcome, Failure):
        assert outcome.error
        stored_error(outcome.error).encode("utf-8")
    else:
        assert isinstance(outcome, Success)
        if outcome.result is not None:
            outcome.result.decode("utf-8")


def check_printing(line: bytes) -> None:
    """Look for answers at the end of what is none as a whole."""
    started = decode_start(line)
    assert not isinstance(started, StartFailed) or started.error
    assert progressing_task(line) is None or b'"task_id"' in line
    printed, answers = split_glued(line, lambda _: True)
    assert printed + b"".join(answers) == line
    assert bool(answers) or printed == line
    assert all(isinstance(decode_answer(each), Response) for each in answers)
    if not answers:  # an answer behind it would be found
        glued = b"%s\x00%s" % (line, LINES[0])
        assert split_glued(glued, lambda _: True) == (line + b"\x00", [LINES[0]])


@cases(1 / 3)
@given(st.lists(lines, min_size=1, max_size=4), st.lists(st.integers(0, 2**20), max_size=12))
def test_no_line_breaks_the_reader_and_no_cut_changes_what_is_read(written: list[bytes], cuts: list[int]) -> None:
    stream = b"\n".join(written)
    at_once = read(stream, [])
    assert read(stream, cuts) == at_once
    assert len(at_once) in {stream.count(b"\n"), stream.count(b"\n") + 1}
    for line in at_once:
        check(line)
