"""How lines from the task author's process are understood."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy_agent.outcome import Failure, Success
from runqy_agent.process.glued import split_glued
from runqy_agent.process.lines import KEPT_OF_LONG_LINE, KEPT_OF_PRINTING, LineSplitter, LongLine
from runqy_agent.process.protocol import (
    Ready,
    Response,
    StartFailed,
    decode_answer,
    decode_start,
    progressing_task,
)

DEEP = "[" * 995 + "]" * 995
DEEPER = "[" * 50_000 + "]" * 50_000
TOO_DEEP = "the process gave an answer that is nested too deeply to be read"
HUGE = "9" * 5000
"""An integer longer than Python reads by default."""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"task_id":"a","result":{"x":1},"error":null,"retry":false}', Response("a", b'{"x":1}', None, retry=False)),
        ('{"task_id":"a","result":null}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","error":null}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":null,"error":null,"retry":true}', Response("a", None, None, retry=True)),
        ('{"task_id":"a","result":1.10}', Response("a", b"1.10", None, retry=False)),
        ('{"task_id":"a","result":"\\ud800"}', Response("a", b'"\\ud800"', None, retry=False)),
        ('{"task_id":"a","error":"no","retry":true}', Response("a", None, "no", retry=True)),
        ('{"task_id":"a","error":""}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","error":"","retry":true}', Response("a", None, None, retry=True)),
        ('{"task_id":"a","result":7,"error":"","retry":false}', Response("a", b"7", None, retry=False)),
        ('{"task_id":"a","result":NaN,"error":""}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","error":{"code":5}}', Response("a", None, '{"code": 5}', retry=False)),
        ('{"task_id":"a","error":false}', Response("a", None, "false", retry=False)),
        ('{"task_id":"a","error":"no","retry":"yes"}', Response("a", None, "no", retry=False)),
        ('{"task_id":"a","error":"no","retry":null}', Response("a", None, "no", retry=False)),
        ('{"task_id":"a","result":1,"took":0.5,"more":{}}', Response("a", b"1", None, retry=False)),
        ('{"retry":false,"error":null,"result":2,"task_id":"a"}', Response("a", b"2", None, retry=False)),
        ('  {"task_id":"a","result":1}\r', Response("a", b"1", None, retry=False)),
        ('{"task_id":"a","result":1,"status":"ready"}', Response("a", b"1", None, retry=False)),
        ('{"task_id":"a","result":1,"progress":1}', Response("a", b"1", None, retry=False)),
        ('{"task_id":"a","result":NaN}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":[NaN,Infinity,1e999,2]}', Response("a", b"[null,null,null,2]", None, retry=False)),
        ('{"task_id":"a","result":"x","error":NaN}', Response("a", b'"x"', None, retry=False)),
        (f'{{"task_id":"a","result":-{HUGE}}}', Response("a", b"-%s" % HUGE.encode(), None, retry=False)),
        (f'{{"task_id":"a","error":{HUGE}}}', Response("a", None, HUGE, retry=False)),
        (f'{{"task_id":"a","result":1,"retry":{HUGE}}}', Response("a", b"1", None, retry=False)),
        (f'{{"task_id":"a","result":[NaN,{HUGE}]}}', Response("a", b'[null,"%s"]' % HUGE.encode(), None, retry=False)),
        (f'{{"task_id":"a","result":{DEEPER}}}', Response("a", None, TOO_DEEP, retry=False)),
        (f'{{"result":{DEEPER},"task_id":"a","retry":true}}', Response("a", None, TOO_DEEP, retry=False)),
    ],
)  # fmt: skip
def test_an_answer_is_understood(line: str, expected: object) -> None:
    assert decode_answer(line.encode()) == expected


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "{}", "[]", "null", "1", '"ready"', "{", "NaN", "[" * 5000, '{"status":"ready"}',
        '{"task_id":5,"result":1}', '{"task_id":"a"', '{"result":1}', '{"task_id":"a"}', '{"task_id":"a","retry":true}',
        '{"task_id":"a","status":"ready"}', '{"task_id":"a","progress":0.5}', '{"task_id":null,"result":1}',
        '{"task_id":"a","results":1}', '[{"task_id":"a","result":1}]', '"task_id"',
        '{"more":{"task_id":"a","result":1}}',
        '{"task_id":"a","x":NaN}', '{"task_id":5,"result":NaN}', f'{{"more":{{"task_id":"a","result":{DEEPER}}}}}',
        f'{{"result":{DEEPER},"more":{{"task_id":"a"}}}}', '{"task_id":"a","result":1} and more',
    ],
)  # fmt: skip
def test_anything_else_is_the_authors_printing(line: str) -> None:
    assert decode_answer(line.encode()) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"status":"ready"}', Ready()),
        (' { "status" : "ready" }\r', Ready()),
        ('{"status":"error","error":"no model"}', StartFailed("no model")),
        ('{"error":"no model","status":"error"}', StartFailed("no model")),
        ('{"status":"error","error":""}', StartFailed("the process gave no reason")),
        ('{"status":"ready","service":"x"}', None),
        ('{"status":"ready","error":null}', None),
        ('{"status":"ready","task_id":"a","result":1}', None),
        ('{"status":"READY"}', None),
        ('{"status":"error"}', None),
        ('{"status":"error","code":404}', None),
        ('{"status":"error","error":"no route","code":404}', None),
        ('{"status":"error","error":null}', None),
        ('{"status":"error","error":["a"]}', None),
        ('{"status":"busy"}', None),
        ('x{"status":"ready"}', None),
        ('{"status":"ready"}x', None),
        ('["status","ready"]', None),
        (DEEPER, None),
        ("", None),
    ],
)  # fmt: skip
def test_how_a_start_went_is_told_in_two_forms_and_no_others(line: str, expected: object) -> None:
    assert decode_start(line.encode()) == expected


@pytest.mark.parametrize(
    ("line", "task"),
    [
        ('{"task_id":"a","progress":0}', "a"),
        ('{"task_id":"a","progress":0.5,"message":"half"}', "a"),
        ('{"task_id":"a","progress":1.5}', None),
        ('{"task_id":"a","progress":"0.5"}', None),
        ('{"task_id":"a","progress":0.5,"level":"info"}', None),
        ('{"progress":0.5}', None),
    ],
)
def test_a_line_that_tells_progress_does_nothing_else(line: str, task: str | None) -> None:
    assert progressing_task(line.encode()) == task


A, B = b'{"task_id":"a","result":1}', b'{"error": "no", "result": {"x": [{}]}, "task_id": "b", "retry": false}'
OTHER = b'{"task_id":"upload-17","result":1}'
NESTED = b'{"task_id":"a","result":{"task_id":"b","result":1}}'
TEXT_WITH_BRACES = b'{"error":null,"result":"}{ {\\"task_id\\":\\"b\\"}","task_id":"a"}'


@pytest.mark.parametrize(
    ("line", "printed", "answers"),
    [
        (b"x" + A, b"x", [A]),
        (b" 40%\r 80%\r100%" + A + b"\r", b" 40%\r 80%\r100%", [A + b"\r"]),
        (b"\x1b[32mdone\x1b[0m" + B + b"  ", b"\x1b[32mdone\x1b[0m", [B + b"  "]),
        (b"\xef\xbb\xbf" + A, b"\xef\xbb\xbf", [A]),
        (b"caf\xc3" + A, b"caf\xc3", [A]),
        (b"{'x': {}} {\"y\": 1}, {{{" + A, b"{'x': {}} {\"y\": 1}, {{{", [A]),
        (b'{"level":"info"}' + A, b'{"level":"info"}', [A]),
        (A + B, b"", [A, B]),
        (b"x" + A + B, b"x", [A, B]),
        (b"x" + A + b"y" + B, b"x" + A + b"y", [B]),
        (A + A, A, [A]),
        (OTHER + A, OTHER, [A]),
        (b"x" + NESTED, b"x", [NESTED]),
        (b"x" + TEXT_WITH_BRACES, b"x", [TEXT_WITH_BRACES]),
        (b'x{"task_id":"a","result":NaN}', b"x", [b'{"task_id":"a","result":NaN}']),
        (b'x{"task_id":"a","result":"caf\xe9"}', b"x", [b'{"task_id":"a","result":"caf\xe9"}']),
        (b"x" * 2**22 + A, b"x" * 2**22, [A]),
    ],
)
def test_answers_at_the_end_of_other_output_are_found_and_the_rest_is_printing(
    line: bytes, printed: bytes, answers: list[bytes]
) -> None:
    assert split_glued(line, {"a", "b"}.__contains__) == (printed, answers)


@pytest.mark.parametrize(
    "line",
    [
        b"x" + OTHER,
        A + b"x",
        b'{"event":"answered","answer":%s}' % A,
        b'INFO {"event":"answered","answer":%s}' % A,
        b"INFO [%s]" % A,
        b"INFO '%s'" % A,
        b'{"text":"x%s"}' % A.replace(b'"', b'\\"'),
        b'x{"task_id":"a"}',
        b'x{"task_id":"a","progress":0.5}',
        b'x{"task_id":"a","result":1',
        b'x"task_id":"a","result":1}',
        b'"task_id"}',
        b"",
        b'{"task_id":' * 10_000 + b"}",
    ],
)
def test_what_only_looks_like_an_answer_stays_printing(line: bytes) -> None:
    assert split_glued(line, {"a", "b"}.__contains__) == (line, [])


def test_an_answer_with_bytes_that_are_not_utf_8_is_still_an_answer() -> None:
    assert decode_answer(b'{"task_id":"a","error":"caf\xe9"}') == Response("a", None, "caf\ufffd", retry=False)
    answer = decode_answer(b'{"task_id":"a","result":"caf\xe9"}')
    assert isinstance(answer, Response)
    assert json.loads(answer.result or b"") == "caf\ufffd"


def test_an_error_nested_deeply_is_an_error_all_the_same() -> None:
    answer = decode_answer(b'{"task_id":"a","error":%s}' % DEEP.encode())
    assert answer is None or isinstance(answer, Response)


@given(st.integers(900, 1100), st.sampled_from(["error", "result", "other"]), st.booleans())
def test_no_depth_of_nesting_raises(depth: int, name: str, lenient: bool) -> None:
    extra = ',"more":NaN' if lenient else ""
    decode_answer(f'{{"task_id":"a","{name}":{"[" * depth}{"]" * depth}{extra}}}'.encode())


def test_an_answer_without_error_is_success_and_one_with_an_error_is_failure() -> None:
    assert Response("a", b"1", None, retry=True).outcome() == Success(b"1")
    assert Response("a", b"1", "no", retry=True).outcome() == Failure("no", retry=True)
    assert Response("a", None, None, retry=False).outcome() == Success(None)


def test_no_mutation_of_a_line_raises() -> None:
    random_ = random.Random(7)
    seeds = [
        b'{"task_id":"a","result":{"x":[1,2.5,"\\u00e9"]},"error":null,"retry":false}',
        b'{"status":"error","error":{"deep":[[["x"]]]}}',
        b'{"task_id":"a","result":NaN,"error":"\xc3\xa9\\ud800"}',
        b'{"status":"ready"}',
    ]
    pieces = [
        b"{",
        b"}",
        b'"',
        b"\\u",
        b"\xff",
        b"NaN",
        b"1e999",
        b"null",
        b":",
        b",",
        b"[" * 1200,
        b"9" * 5000,
        b"\x00",
        b"\xed\xa0\x80",
    ]
    understood = 0
    for _ in range(4000):
        line = bytearray(random_.choice(seeds))
        for _ in range(random_.randrange(1, 5)):
            at = random_.randrange(len(line) + 1)
            line[at : at + random_.randrange(3)] = random_.choice([*pieces, bytes([random_.randrange(256)])])
        answer = decode_answer(bytes(line))
        understood += answer is not None
        decode_start(bytes(line))
        split_glued(bytes(line), lambda _: True)
        if isinstance(answer, Response):
            answer.outcome()
            assert answer.result is None or isinstance(answer.result.decode("utf-8"), str)
    assert 0 < understood < 4000


# Lines out of a stream.


def cut(data: bytes, cuts: list[int], limit: int) -> list[bytes | LongLine]:
    splitter = LineSplitter(limit)
    lines: list[bytes | LongLine] = []
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    for start, end in pairwise(edges):
        lines += splitter.feed(data[start:end])
    rest = splitter.rest()
    return lines if rest is None else [*lines, rest]


@given(st.lists(st.binary(max_size=40), max_size=12).map(b"\n".join), st.lists(st.integers(0, 10_000), max_size=20))
def test_lines_do_not_depend_on_how_the_stream_is_cut(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert cut(data, cuts, limit=1000) == expected


pieces = st.binary(max_size=40) | st.sampled_from([b'{"task_id":', b'{ "error" : 1}', b'{"other":', b" ", b"{"])
printed_lines = st.lists(pieces, max_size=4).map(b"".join).filter(lambda line: b"\n" not in line)


@given(st.lists(printed_lines, min_size=1, max_size=12), st.lists(st.integers(0, 10_000), max_size=20))
@pytest.mark.parametrize("limit", [1, 5, 30, 100])
def test_long_lines_are_told_apart_however_the_stream_is_cut(limit: int, lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    found = cut(stream, cuts, limit)
    assert found == cut(stream, [], limit)
    assert len(found) == len(lines)
    for line, whole in zip(found, lines, strict=True):
        if isinstance(line, LongLine):
            assert len(whole) > limit
            assert line.size == len(whole)
            assert whole.endswith(line.tail)
            assert line.head in whole
        elif len(whole) <= limit:
            assert line == whole
        else:  # it ends with what may be an answer
            alike = next((at for at, (one, other) in enumerate(zip(line, whole, strict=False)) if one != other), 0)
            assert whole.endswith(line[alike:])
            assert re.search(rb'\{\s*"(task_id|error)"\s*:', line)


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert list(LineSplitter(5).feed(b"12345\n123456\n")) == [b"12345", LongLine(6, b"123456", b"123456")]
    answer = b'{"task_id":"a","result":1}'
    at_limit, over = LineSplitter(len(answer)), LineSplitter(len(answer) - 1)
    assert list(at_limit.feed(b"x" * 99 + answer + b"\n")) == [b"x" * 99 + answer]
    assert list(over.feed(b"x" * 99 + answer + b"\n")) == [LongLine(99 + len(answer), answer, b"x" * 99 + answer)]


def test_a_long_line_is_kept_by_its_two_ends() -> None:
    splitter = LineSplitter(100_000)
    chunk = bytes(range(256)).replace(b"\n", b"") * 32
    for _ in range(500):
        assert list(splitter.feed(chunk)) == []
    (line,) = splitter.feed(b"end\nnext")
    assert isinstance(line, LongLine)
    assert line.size == 500 * len(chunk) + 3
    assert line.head == chunk[:KEPT_OF_LONG_LINE]
    assert line.tail == (chunk + b"end")[-KEPT_OF_LONG_LINE:]
    assert splitter.rest() == b"next"


def most_memory_for_a_line(begin: bytes, piece: bytes, size: int, limit: int) -> int:
    """Bytes held at most while a line without an end is read."""
    splitter = LineSplitter(limit)
    tracemalloc.start()
    try:
        for data in chain([begin], repeat(piece, size // len(piece))):
            assert list(splitter.feed(data)) == []
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("begin", [b"x", b"", b"  [1, ", b" " * 20_000 + b"{", b'x{"other":1}{"task_id"'])
def test_a_line_that_can_be_no_message_takes_no_more_than_the_log_keeps_of_it(begin: bytes) -> None:
    assert most_memory_for_a_line(begin, b"y" * 2**16, 2**28, limit=32 * 2**20) < 2**19


@pytest.mark.parametrize("piece", [b"y" * 2**16, b"yy"], ids=["large reads", "small reads"])
def test_a_message_over_the_limit_takes_no_second_copy_of_it(piece: bytes) -> None:
    limit = 2**18 if len(piece) == 2 else 2**24
    assert most_memory_for_a_line(b' {"result":"', piece, 2 * limit, limit) < 1.5 * limit


@pytest.mark.parametrize("limit", [60_000, 2**25])
@pytest.mark.parametrize("printed", [100, KEPT_OF_PRINTING - 5, KEPT_OF_PRINTING + 1, 2**20])
@pytest.mark.parametrize("size", [0, 50_000])
def test_an_answer_behind_printing_of_any_length_is_kept(limit: int, printed: int, size: int) -> None:
    answer = b'{ "error" : null, "task_id":"a","result":"%s"}' % (b"y" * size)
    stream = b"x" * printed + answer + b"\n"
    for read in (11, 2**16, 2**21) if printed < 2**20 else (2**16, 2**21):
        splitter = LineSplitter(limit)
        found = [each for at in range(0, len(stream), read) for each in splitter.feed(stream[at : at + read])]
        assert found == [b"x" * min(printed, KEPT_OF_PRINTING) + answer]
        assert splitter.rest() is None


def test_what_can_hold_no_answer_is_not_looked_through_for_one() -> None:
    answer = b'{"task_id":"a","result":1}'
    (line,) = LineSplitter(100, answers=False).feed(b"x" * 200 + answer + b"\n")
    assert isinstance(line, LongLine)


@pytest.mark.parametrize("reads", [1, 7, 40_000])
def test_of_a_printed_line_within_the_limit_its_beginning_is_left_however_it_is_read(reads: int) -> None:
    printed, message = b"printing " * 5000, b'\t{"task_id":"' + b"a" * 50_000
    for line, expected in ((printed, printed[:KEPT_OF_PRINTING]), (message, message)):
        stream, size = line + b"\n", -(-len(line) // reads)
        splitter = LineSplitter(100_000)
        found = [each for at in range(0, len(stream), size) for each in splitter.feed(stream[at : at + size])]
        assert found == [expected]


@pytest.mark.parametrize(
    "template",
    ['{"task_id":"a \\"b\\" \\u00e9","result":"%s"}', '{"result":"%s","error":null,"task_id" : "a \\"b\\" \\u00e9"}'],
)
def test_the_task_of_a_long_line_is_found_at_its_beginning_or_its_end(template: str) -> None:
    (line,) = LineSplitter(1000).feed((template % ("x" * 100_000)).encode() + b"\n")
    assert isinstance(line, LongLine)
    assert line.task_id() == 'a "b" é'
    outcome = line.outcome(1000)
    assert outcome.retry is False
    assert "max_message_bytes (1000)" in outcome.error


@pytest.mark.parametrize(
    "text",
    [
        'print: {"task_id":"a"} %s',
        '{"result":"%s"}',
        '{"task_id":"\\q","result":"%s"}',
        "%s",
        '{"more":{"task_id":"a","x":"%s"}}',
        '{"x":"%s","more":{"task_id":"a"}}',
        '{"x":"%s","more":[{"task_id":"a"}]}',
        '{"x":"%s\\"task_id\\":\\"a\\"}"}',
    ],
)
def test_a_long_line_that_names_no_task_answers_none(text: str) -> None:
    (line,) = LineSplitter(1000).feed((text % ("x" * 100_000)).encode() + b"\n")
    assert isinstance(line, LongLine)
    assert line.task_id() is None
