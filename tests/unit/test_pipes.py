"""Both ends of a pipe in one process: what is read and written, in which order, and who has the loop meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from runqy_agent.process import printing
from runqy_agent.process.lines import LineSplitter
from runqy_agent.process.pipes import InputPipe, OutputPipe
from runqy_agent.process.printing import PrintBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.process.lines import LongLine


class Reading:
    """An output that is read, and what came of it."""

    def __init__(self, on_line: Callable[[], None] = lambda: None, *, floods: bool = False) -> None:
        self.lines: list[bytes | LongLine] = []
        self.turns: list[int] = []
        self.floods = floods
        self.ended = asyncio.get_running_loop().create_future()
        self._on_line = on_line
        ours, self.theirs = os.pipe()
        os.set_blocking(ours, False)
        self.descriptor = ours
        self.pipe = OutputPipe(ours, LineSplitter(1000), self._line, self._turn, lambda: self.ended.set_result(None))

    def _line(self, line: bytes | LongLine) -> None:
        self.lines.append(line)
        self._on_line()

    def _turn(self) -> bool:
        self.turns.append(len(self.lines))
        return self.floods and self.turns[-1] not in self.turns[:-1]  # unless it has brought nothing

    @property
    def is_open(self) -> bool:
        try:
            os.fstat(self.descriptor)
        except OSError:
            return False
        return True


@pytest.mark.parametrize("floods", [False, True])
def test_others_have_the_event_loop_while_many_lines_are_taken_and_none_is_lost(floods: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        others: list[int] = []

        def other() -> None:
            others.append(len(reading.lines))
            if not reading.ended.done():
                loop.call_soon(other)

        reading = Reading(lambda: time.sleep(0.001), floods=floods)
        loop.call_soon(other)
        sent = [b"%d" % number for number in range(1000)]
        os.write(reading.theirs, b"\n".join(sent) + b"\nrest")
        os.close(reading.theirs)
        await reading.ended
        assert reading.lines == [*sent, b"rest"]
        assert len(set(others)) > 5  # they were taken in as many pieces at least
        assert reading.turns[0] < len(sent)
        assert not reading.is_open

    asyncio.run(main())


def test_nothing_is_read_while_lines_wait_so_the_writer_waits_too() -> None:
    async def main() -> None:
        reading = Reading(lambda: time.sleep(0.0005), floods=True)
        os.set_blocking(reading.theirs, False)
        line, written, refused = b"x" * 63 + b"\n", 0, False
        while not refused:
            try:
                written += os.write(reading.theirs, line * 1000)
            except BlockingIOError:
                refused = bool(reading.lines)
            await asyncio.sleep(0)
        os.close(reading.theirs)
        await reading.ended
        assert sum(len(each) + 1 for each in reading.lines if isinstance(each, bytes)) == written

    asyncio.run(main())


def test_a_pipe_that_is_closed_while_somebody_holds_it_gives_what_is_in_it() -> None:
    async def main() -> None:
        first = asyncio.Event()

        def slow() -> None:
            first.set()
            time.sleep(0.001)

        reading = Reading(slow)
        os.write(reading.theirs, b"line\n" * 100)
        await first.wait()
        assert len(reading.lines) < 100  # the others wait for their turn
        os.write(reading.theirs, b"more\n" * 100 + b"end")
        reading.pipe.close()
        assert reading.lines == [b"line"] * 100 + [b"more"] * 100 + [b"end"]
        assert reading.turns[-1] == len(reading.lines)
        assert reading.ended.done()
        assert not reading.is_open
        reading.pipe.close()  # once is enough
        os.close(reading.theirs)
        await asyncio.sleep(0.01)
        assert len(reading.lines) == 201

    asyncio.run(main())


def test_what_a_process_does_not_read_waits_and_whoever_writes_is_told() -> None:
    async def main() -> None:
        theirs, ours = os.pipe()
        os.set_blocking(ours, False)
        room = 0

        def on_room() -> None:
            nonlocal room
            room += 1

        pipe = InputPipe(ours, on_room)
        pipe.write(b"small\n")
        assert pipe.reads
        large = bytes(range(256)) * 4000
        pipe.write(large)
        pipe.write(b"end\n")
        assert not pipe.reads
        pipe.close()  # what was written leaves all the same
        pipe.write(b"too late")
        received = b""
        while data := await asyncio.to_thread(os.read, theirs, 2**16):
            received += data
        os.close(theirs)
        assert received == b"small\n" + large + b"end\n"
        assert (pipe.reads, room) == (True, 1)

    asyncio.run(main())


def test_writing_to_a_process_that_reads_no_more_is_no_error() -> None:
    async def main() -> None:
        theirs, ours = os.pipe()
        os.set_blocking(ours, False)
        pipe = InputPipe(ours, lambda: None)
        os.close(theirs)
        pipe.write(b"lost")
        pipe.write(b"lost")
        pipe.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(ours)

    asyncio.run(main())


# What may be printed.


def most(budget: PrintBudget, size: int) -> int:
    """How many lines of this size it takes now."""
    count = 0
    while budget.allows(size):
        count += 1
    return count


def test_a_burst_is_printed_and_then_so_many_lines_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = PrintBudget()
    assert most(budget, 1) == printing.BURST_LINES
    now += 10
    assert most(budget, 1) == 10 * printing.LINES_PER_SECOND
    now += 3600
    assert most(budget, 1) == printing.BURST_LINES


def test_long_lines_use_the_budget_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = PrintBudget()
    assert most(budget, 16_384) == printing.BURST_BYTES // 16_384
    assert not budget.allows(16_384)
    now += 10
    assert most(budget, 16_384) == 10 * printing.BYTES_PER_SECOND // 16_384
    now += 3600
    assert most(budget, 16_384) == printing.BURST_BYTES // 16_384
