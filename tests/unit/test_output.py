"""The lines that processes print: a ring in memory, a bounded part of it for Redis."""

from __future__ import annotations

import json

from runqy_agent.clock import Clock
from runqy_agent.process.command import Printed
from runqy_agent.reporting.output import KEPT, LONGEST_TEXT, MOST_TO_WRITE, Output


def printed(text: str, queue: str = "q") -> Printed:
    return Printed("stdout", text, queue, 7)


def test_the_newest_lines_are_kept_and_numbered() -> None:
    output = Output(Clock())
    for number in range(KEPT + 20):
        output.add(printed(str(number), "even" if number % 2 == 0 else "odd"))
    assert [line["text"] for line in output.newest()] == [str(number) for number in range(20, KEPT + 20)]
    assert [line["seq"] for line in output.newest(2)] == [KEPT + 19, KEPT + 20]
    assert [line["text"] for line in output.newest(3, queue="odd")] == ["515", "517", "519"]
    assert output.newest(after=KEPT + 20) == []


def test_a_long_line_takes_no_more_than_its_share() -> None:
    output = Output(Clock())
    output.add(printed("x" * 10 * LONGEST_TEXT))
    assert len(output.newest()[0]["text"]) == LONGEST_TEXT


def test_of_a_flood_redis_gets_the_newest_lines_and_no_more_than_it_should() -> None:
    output = Output(Clock())
    for number in range(KEPT):
        output.add(printed(f"{number:04d}" + "x" * LONGEST_TEXT))
    lines = [json.loads(line) for _, line in output.to_write(after=0)]
    assert sum(len(line["text"]) for line in lines) <= MOST_TO_WRITE
    assert [line["seq"] for line in lines] == list(range(KEPT - len(lines) + 1, KEPT + 1))
    assert output.to_write(after=KEPT) == []


def test_whoever_publishes_is_told_of_each_line() -> None:
    output, told = Output(Clock()), []
    output.on_line = lambda: told.append(1)
    output.add(printed("a"))
    assert told == [1]
