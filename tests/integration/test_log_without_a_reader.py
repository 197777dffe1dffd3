"""Whoever reads the agent's log may stop reading, or go away: tasks, heartbeat and stop do not notice."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from stage import author_code, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stage import Stage

PRINTS = 2_000
"""Lines of each task; one alone is more than a pipe takes."""
BEATS = 2


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 65536)

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1

    def read(self) -> str:
        text = b""
        os.close(self.writer)
        self.writer = -1
        while part := os.read(self.reader, 65536):
            text += part
        return text.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_reader()
    if pipe.writer >= 0:
        os.close(pipe.writer)


def serve(stage: Stage, pipe: Pipe) -> None:
    """Four tasks that print a lot, some beats of the heart, and the end."""
    code = author_code()
    code["main.py"] = code["main.py"].replace(
        'print("working on", payload)',
        f'print("working on", payload)\n    for number in range({PRINTS}):\n        print(number, "x" * 200)',
    )
    stage.queue("inference", code)
    agent = stage.agent(stderr=pipe.writer, concurrency=2, shutdown_timeout="5s").wait_running()
    tasks = [stage.client.enqueue("inference.default", b"{}") for _ in range(4)]
    for task in tasks:
        stage.until_state("inference.default", task, "completed")
    for _ in range(BEATS):
        last = agent.record()["last_beat"]
        until(lambda last=last: agent.record()["last_beat"] > last, "the heart beats")  # type: ignore[misc]
    assert agent.terminate() == 0
    assert agent.record() == {}


def test_with_a_log_that_nobody_reads_all_tasks_end_the_heart_beats_and_the_end_comes_in_time(
    stage: Stage, pipe: Pipe
) -> None:
    serve(stage, pipe)
    assert "working on" in pipe.read()


def test_with_a_log_whose_reader_has_gone_the_same_holds(stage: Stage, pipe: Pipe) -> None:
    pipe.close_reader()
    serve(stage, pipe)


def test_with_a_log_on_a_full_disk_the_same_holds(stage: Stage, pipe: Pipe) -> None:
    os.close(pipe.writer)
    pipe.writer = os.open("/dev/full", os.O_WRONLY)
    serve(stage, pipe)


def test_the_last_error_comes_out_and_holds_no_secret(stage: Stage, pipe: Pipe) -> None:
    stage.queue("inference")
    stage.server.queues.clear()
    agent = stage.agent(stderr=pipe.writer, bootstrap_retries=1)
    assert agent.wait() == 3
    last = pipe.read().splitlines()[-1]
    assert "CRITICAL" in last
    assert "inference" in last
    assert stage.server.api_key not in last
