"""Whoever reads the log may stop reading: whatever logs goes on, and is told of nothing."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.config.settings import LogSettings
from runqy_agent.redaction import Redactor
from runqy_agent.reporting import log_writer
from runqy_agent.reporting.log_writer import LogWriter
from runqy_agent.reporting.logs import QueuedHandler, configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 30.0
LINE = "x" * 1000


class Pipe:
    """A pipe with a log at its one end; reads only when it is told to."""

    def __init__(self) -> None:
        self.reader, self.fd = os.pipe()
        self.text = b""

    def read_until(self, ending: str) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while not self.text.endswith(ending.encode()):
            assert time.monotonic() < deadline, self.text[-500:]
            self.text += os.read(self.reader, 65536)
        return self.text.decode().splitlines()

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        for fd in (self.reader, self.fd):
            with suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def writer(pipe: Pipe) -> Iterator[LogWriter]:
    writer = LogWriter(pipe.fd, lambda lines, reason: f"{lines} gone: {reason}")
    yield writer
    pipe.close()  # a writer that waits for the reader ends with an error
    writer.close()


def fill(writer: LogWriter) -> int:
    """Write more than is kept. Returns how many lines."""
    count = 2 * log_writer.MAX_BYTES // len(LINE)
    for number in range(count):
        writer.put(f"{number} {LINE}")
    return count


def test_lines_come_out_in_order_and_a_flush_waits_for_them(pipe: Pipe, writer: LogWriter) -> None:
    for number in range(50):
        writer.put(f"line {number}")
    writer.flush()
    os.set_blocking(pipe.reader, False)
    assert os.read(pipe.reader, 65536).decode().splitlines() == [f"line {number}" for number in range(50)]


def test_what_nobody_reads_is_dropped_counted_and_told_in_its_place(pipe: Pipe, writer: LogWriter) -> None:
    count = fill(writer) + 1
    writer.put("short, and yet after those that were dropped")
    assert writer._size <= log_writer.MAX_BYTES
    reader = threading.Thread(target=pipe.read_until, args=["\nlast\n"])
    reader.start()
    writer.flush()
    writer.put("last")
    reader.join(PATIENCE)
    *kept, notice, last = pipe.text.decode().splitlines()
    assert [line.partition(" ")[0] for line in kept] == [str(number) for number in range(len(kept))]
    assert notice == f"{count - len(kept)} gone: nobody read the log"
    assert last == "last"
    assert len(kept) * len(LINE) > log_writer.MAX_BYTES / 2


def test_a_line_that_is_urgent_has_room_where_others_have_none(pipe: Pipe, writer: LogWriter) -> None:
    fill(writer)
    writer.put("the worker dies of this", urgent=True)
    for _ in range(2 * log_writer.URGENT_BYTES // len(LINE)):
        writer.put(f"urgent {LINE}", urgent=True)
    assert writer._size <= log_writer.MAX_BYTES + log_writer.URGENT_BYTES
    reader = threading.Thread(target=pipe.read_until, args=["read the log\n"])
    reader.start()
    reader.join(PATIENCE)
    lines = pipe.text.decode().splitlines()
    assert "the worker dies of this" in lines
    assert sum(line.startswith("urgent") for line in lines) * len(LINE) > log_writer.URGENT_BYTES / 2


def test_a_flush_does_not_wait_for_a_reader_who_reads_nothing(
    pipe: Pipe, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 1000.0)
    monkeypatch.setattr(log_writer, "STUCK_SECONDS", 0.05)
    fill(writer)
    writer.flush()
    monkeypatch.setattr(log_writer, "STUCK_SECONDS", 1000.0)
    writer.flush()  # and once it has waited in vain it does not wait again


def test_a_flush_does_not_wait_for_ever_for_a_reader_who_is_slow(
    pipe: Pipe, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 0.2)
    fill(writer)
    stop = threading.Event()

    def read_slowly() -> None:
        while not stop.wait(0.02):
            os.read(pipe.reader, 4096)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    writer.flush()
    stop.set()
    reader.join(PATIENCE)
    assert not writer._all_written()


def test_a_closed_pipe_costs_lines_and_nothing_else(pipe: Pipe, writer: LogWriter) -> None:
    pipe.close_reader()
    for _ in range(3):
        writer.put("lost")
        writer.flush()
    assert writer._dropped == 3


def test_after_a_refusal_it_is_told_how_many_lines_are_missing(
    writer: LogWriter, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device")
    real, refusals = os.write, iter((full, 3, full))

    def write(fd: int, data: memoryview) -> int:
        if fd != writer._fd:
            return real(fd, data)
        refusal = next(refusals, None)
        if isinstance(refusal, OSError):
            raise refusal
        return real(fd, data[:refusal])

    monkeypatch.setattr(os, "write", write)
    for words in ("first", "second", "third"):
        writer.put(words)
        writer.flush()
    assert pipe.read_until("third\n") == [
        "1 g",
        "2 gone: writing the log failed: No space left on device",
        "third",
    ]


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe, writer: LogWriter) -> None:
    os.set_blocking(pipe.fd, False)
    for number in range(300):
        writer.put(f"{number} {LINE}")
    writer.put("end")
    assert len(pipe.read_until("end\n")) == 301


def test_what_cannot_be_encoded_is_escaped(pipe: Pipe, writer: LogWriter) -> None:
    writer.put("a\udcffb")
    assert pipe.read_until("\n") == ["a\\udcffb"]


def test_a_line_longer_than_all_that_is_kept_comes_out_where_nothing_waits(
    pipe: Pipe, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_BYTES", 100)
    writer.put(LINE)
    assert pipe.read_until("\n") == [LINE]


def _log_in_child(writer: LogWriter) -> None:
    writer.put("from the child")
    writer.flush()


def test_a_forked_process_logs_too_and_repeats_nothing(pipe: Pipe, writer: LogWriter) -> None:
    writer.put("from the parent")
    writer.flush()
    writer._changed.acquire()  # as another thread of the parent may hold it at that moment
    child = multiprocessing.get_context("fork").Process(target=_log_in_child, args=[writer])
    child.start()
    writer._changed.release()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert pipe.read_until("child\n") == ["from the parent", "from the child"]


def test_closing_it_ends_the_thread_and_lets_the_descriptor_go(pipe: Pipe) -> None:
    for used in (True, False):
        writer = LogWriter(pipe.fd, lambda *_: "")
        if used:
            writer.put("x")
        thread = writer._thread
        writer.close()
        writer.close()
        if thread is not None:
            thread.join(PATIENCE)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(writer._fd)


# The handler


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if isinstance(handler, QueuedHandler):
            handler.close()
    root.handlers[:], level = before
    root.setLevel(level)


def configured(pipe: Pipe, form: Any = "text") -> logging.Logger:
    with os.fdopen(os.dup(pipe.fd), "w") as stream:
        configure_logging(LogSettings(format=form), Redactor(), stream)
    return logging.getLogger("x")


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("form", ["text", "json", "journald"])
def test_the_notice_has_the_form_of_the_log(form: str, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_BYTES", 100_000)
    log = configured(pipe, form)
    for _ in range(400):
        log.info(LINE)
    last = pipe.read_until('log"}\n' if form == "json" else "log\n")[-1]
    assert re.search(r"\d+ lines were dropped because nobody read the log", last)
    assert last.startswith({"text": "2", "json": "{", "journald": "<4>"}[form])


def test_a_message_that_cannot_be_formatted_is_a_line_that_says_where_and_quotes_nothing(
    pipe: Pipe, root_logger: logging.Logger
) -> None:
    configured(pipe).info("%d", "secret-argument")
    (line,) = pipe.read_until("\n")
    assert "cannot format the message of" in line
    assert "test_log_writer.py" in line
    assert "secret-argument" not in line
    assert len(root_logger.handlers) == 1


@pytest.mark.parametrize("level", [logging.WARNING, logging.CRITICAL])
def test_warnings_and_errors_have_room_where_others_have_none(
    level: int, pipe: Pipe, root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_BYTES", 100_000)
    log = configured(pipe)
    for _ in range(400):
        log.info(LINE)
    log.log(level, "this matters")
    assert len(root_logger.handlers) == 1
    assert any("this matters" in line for line in pipe.read_until("nobody read the log\n"))


@pytest.mark.usefixtures("root_logger")
def test_standard_error_that_is_a_file_is_not_waited_for_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root_logger: logging.Logger
) -> None:
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        configure_logging(LogSettings(format="text"), Redactor())
        assert isinstance(root_logger.handlers[0], QueuedHandler)


def test_a_log_that_is_configured_anew_leaves_no_thread_behind(pipe: Pipe, root_logger: logging.Logger) -> None:
    for _ in range(3):
        configured(pipe).info("x")
        threads = [thread for thread in threading.enumerate() if thread.name == "log" and thread.is_alive()]
        mine = root_logger.handlers[0]._writer._thread  # type: ignore[attr-defined]
        for thread in threads:
            if thread is not mine:
                thread.join(PATIENCE)
        assert [thread for thread in threads if thread.is_alive()] == [mine]


@pytest.mark.usefixtures("root_logger")
def test_in_memory_a_line_is_there_at_once() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="text"), Redactor(), stream)
    logging.getLogger("x").info("seen")
    assert stream.getvalue().endswith("INFO    seen\n")


@pytest.mark.usefixtures("root_logger")
def test_a_file_of_the_caller_holds_all_lines_when_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure_logging(LogSettings(format="text"), Redactor(), stream)
        logging.getLogger("x").info("seen")
    assert (tmp_path / "log").read_text().endswith("INFO    seen\n")
