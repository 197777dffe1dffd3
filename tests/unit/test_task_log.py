"""How the ends of tasks are logged: a line each while they are few, one line for many."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runqy_agent.loops.task_log import TaskLog
from runqy_agent.outcome import Failure, Success, Unstarted
from task_kit import NOW, taken

if TYPE_CHECKING:
    import pytest


def test_a_few_tasks_have_a_line_each_with_queue_and_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = TaskLog()
    log.ended(taken("t1", began_at=NOW), Success(), NOW + 0.25)
    log.ended(taken("t2", began_at=NOW), Failure("no such model\nTraceback of many lines"), NOW + 1)
    log.ended(taken("t3"), Unstarted(), NOW)  # it waited behind others, and did not run
    assert [record.getMessage() for record in caplog.records] == [
        "task t1 succeeded after 0.250 s",
        "task t2 failed after 1.000 s: no such model",
        "task t3 put back after 0.000 s",
    ]
    assert next((vars(record)["queue"], vars(record)["task"]) for record in caplog.records) == ("q.default", "t1")
    assert log.counts == {"Success": 1, "Failure": 1, "Unstarted": 1}


def test_many_tasks_are_summed_up_and_once_they_are_few_again_each_has_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        log = TaskLog(interval=3600, lines=2)
        loop = log.start()

        async def interval(tasks: int) -> list[str]:
            caplog.clear()
            for number in range(tasks):
                log.ended(taken(f"t{number}"), Success(), NOW)
            await asyncio.sleep(0)
            log._sum_up()
            return [record.getMessage() for record in caplog.records]

        assert await interval(100) == [
            "task t0 succeeded after 0.000 s",
            "task t1 succeeded after 0.000 s",
            "more tasks have ended in the last 3600 s: 98 succeeded",
        ]
        assert await interval(100) == ["more tasks have ended in the last 3600 s: 100 succeeded"]
        assert await interval(1) == ["more tasks have ended in the last 3600 s: 1 succeeded"]
        assert await interval(1) == ["task t0 succeeded after 0.000 s"]
        await log.stop()
        assert loop.cancelled()

    asyncio.run(main())


def test_what_is_not_told_yet_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        log = TaskLog(interval=3600, lines=0)
        log.start()
        await asyncio.sleep(0)
        log.ended(taken(), Failure("x"), NOW)
        await log.stop()

    asyncio.run(main())
    assert caplog.messages == ["more tasks have ended in the last 3600 s: 1 failed"]
