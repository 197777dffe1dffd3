"""How lines from the task author's process are understood."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy_agent.outcome import Failure, Success
from runqy_agent.process.lines import KEPT_OF_LONG_LINE, KEPT_OF_PRINTING, LineSplitter, LongLine
from runqy_agent.process.protocol import (
    Ready,
    Response,
    StartFailed,
    decode_line,
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
        ('{"task_id":"a"}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":null}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":1.10}', Response("a", b"1.10", None, retry=False)),
        ('{"task_id":"a","result":"\\ud800"}', Response("a", b'"\\ud800"', None, retry=False)),
        ('{"task_id":"a","error":"no","retry":true}', Response("a", None, "no", retry=True)),
        ('{"task_id":"a","error":""}', Response("a", None, "", retry=False)),
        ('{"task_id":"a","error":{"code":5}}', Response("a", None, '{"code": 5}', retry=False)),
        ('{"task_id":"a","error":false}', Response("a", None, "false", retry=False)),
        ('{"task_id":"a","error":"no","retry":"yes"}', Response("a", None, "no", retry=False)),
        ('{"task_id":"a","error":"no","retry":null}', Response("a", None, "no", retry=False)),
        ('{"task_id":"a","result":1,"took":0.5,"more":{}}', Response("a", b"1", None, retry=False)),
        ('{"retry":false,"error":null,"result":2,"task_id":"a"}', Response("a", b"2", None, retry=False)),
        ('  {"task_id":"a"}\r', Response("a", None, None, retry=False)),
        ('{"task_id":"a","status":"ready"}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":NaN}', Response("a", None, None, retry=False)),
        ('{"task_id":"a","result":[NaN,Infinity,1e999,2]}', Response("a", b"[null,null,null,2]", None, retry=False)),
        ('{"task_id":"a","result":"x","error":NaN}', Response("a", b'"x"', None, retry=False)),
        (f'{{"task_id":"a","result":-{HUGE}}}', Response("a", b"-%s" % HUGE.encode(), None, retry=False)),
        (f'{{"task_id":"a","error":{HUGE}}}', Response("a", None, HUGE, retry=False)),
        (f'{{"task_id":"a","retry":{HUGE}}}', Response("a", None, None, retry=False)),
        (f'{{"task_id":"a","result":[NaN,{HUGE}]}}', Response("a", b'[null,"%s"]' % HUGE.encode(), None, retry=False)),
        (f'{{"task_id":"a","result":{DEEPER}}}', Response("a", None, TOO_DEEP, retry=False)),
        (f'{{"result":{DEEPER},"task_id":"a","retry":true}}', Response("a", None, TOO_DEEP, retry=False)),
        ('{"status":"ready"}', Ready()),
        ('{"status":"ready","pid":7}', Ready()),
        ('{"status":"error","error":"no model"}', StartFailed("no model")),
        ('{"status":"error"}', StartFailed("the process gave no reason")),
        ('{"status":"error","error":["a"]}', StartFailed('["a"]')),
    ],
)  # fmt: skip
def test_an_answer_is_understood(line: str, expected: object) -> None:
    assert decode_line(line.encode()) == expected


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "{}", "[]", "null", "1", '"ready"', "{", "NaN", "[" * 5000,
        '{"status":"busy"}', '{"task_id":5,"result":1}', '{"task_id":"a"', '{"result":1}',
    ],
)  # fmt: skip
def test_anything_else_is_the_authors_printing(line: str) -> None:
    assert decode_line(line.encode()) is None


def test_an_answer_with_bytes_that_are_not_utf_8_is_still_an_answer() -> None:
    assert decode_line(b'{"task_id":"a","error":"caf\xe9"}') == Response("a", None, "caf\ufffd", retry=False)
    answer = decode_line(b'{"task_id":"a","result":"caf\xe9"}')
    assert isinstance(answer, Response)
    assert json.loads(answer.result or b"") == "caf\ufffd"


def test_an_error_nested_deeply_is_an_error_all_the_same() -> None:
    answer = decode_line(b'{"task_id":"a","error":%s}' % DEEP.encode())
    assert answer is None or isinstance(answer, Response)


@given(st.integers(900, 1100), st.sampled_from(["error", "result", "other"]), st.booleans())
def test_no_depth_of_nesting_raises(depth: int, name: str, lenient: bool) -> None:
    extra = ',"more":NaN' if lenient else ""
    decode_line(f'{{"task_id":"a","{name}":{"[" * depth}{"]" * depth}{extra}}}'.encode())


def test_an_answer_without_error_is_success_and_one_with_an_error_is_failure() -> None:
    assert Response("a", b"1", None, retry=True).outcome() == Success(b"1")
    assert Response("a", b"1", "no", retry=True).outcome() == Failure("no", retry=True)
    assert Response("a", None, "", retry=False).outcome() == Failure("", retry=False)


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
        answer = decode_line(bytes(line))
        understood += answer is not None
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


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), min_size=1, max_size=12),
    st.lists(st.integers(0, 10_000), max_size=20),
    st.integers(1, 30),
)
def test_long_lines_are_told_apart_however_the_stream_is_cut(lines: list[bytes], cuts: list[int], limit: int) -> None:
    found = cut(b"".join(line + b"\n" for line in lines), cuts, limit)
    assert len(found) == len(lines)
    for line, whole in zip(found, lines, strict=True):
        if isinstance(line, LongLine):
            assert len(whole) > limit
            assert (line.size, line.tail) == (len(whole), whole)
            assert whole.startswith(line.head)
        else:
            assert line == whole
            assert len(whole) <= limit


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert list(LineSplitter(5).feed(b"12345\n123456\n")) == [b"12345", LongLine(6, b"123456", b"123456")]


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


@pytest.mark.parametrize("begin", [b"x", b"", b"  [1, ", b" " * 20_000 + b"{"])
def test_a_line_that_can_be_no_message_takes_no_more_than_the_log_keeps_of_it(begin: bytes) -> None:
    assert most_memory_for_a_line(begin, b"y" * 2**16, 2**28, limit=32 * 2**20) < 2**19


@pytest.mark.parametrize("piece", [b"y" * 2**16, b"yy"], ids=["large reads", "small reads"])
def test_a_message_over_the_limit_takes_no_second_copy_of_it(piece: bytes) -> None:
    limit = 2**18 if len(piece) == 2 else 2**24
    assert most_memory_for_a_line(b' {"result":"', piece, 2 * limit, limit) < 1.5 * limit


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
    "text", ['print: {"task_id":"a"} %s', '{"result":"%s"}', '{"task_id":"\\q","result":"%s"}', "%s"]
)
def test_a_long_line_that_names_no_task_answers_none(text: str) -> None:
    (line,) = LineSplitter(1000).feed((text % ("x" * 100_000)).encode() + b"\n")
    assert isinstance(line, LongLine)
    assert line.task_id() is None
