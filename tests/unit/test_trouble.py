"""Trouble of a loop that lasts, as the log, the status and the verdict tell of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.health import judge
from runqy_agent.loops.trouble import LASTING_SECONDS, REMIND_SECONDS, Troubles

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = OSError("connection refused")


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 1000.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    return advance


def test_trouble_that_passes_soon_is_not_told(
    pass_time: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles("forwarder")
    assert troubles.failed(REFUSED)
    pass_time(LASTING_SECONDS - 1)
    assert not troubles.failed(REFUSED)
    assert troubles.lasting == {}
    assert troubles.text() == "OSError: connection refused"
    assert troubles.worked()
    pass_time(LASTING_SECONDS)
    assert (troubles.text(), troubles.lasting, caplog.records) == ("", {}, [])
    assert not troubles.worked()


def test_lasting_trouble_is_warned_of_again_and_again_until_it_is_over(
    pass_time: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles("forwarder")
    for _ in range(int(2.5 * REMIND_SECONDS)):
        troubles.failed(REFUSED)
        pass_time(1)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"forwarder: nothing has worked for {LASTING_SECONDS + n * REMIND_SECONDS:.0f} s "
        "(OSError: connection refused), still trying"
        for n in range(3)
    ]
    assert troubles.lasting == {"forwarder": "OSError: connection refused"}
    troubles.worked()
    assert troubles.lasting == {}
    assert troubles.failed(REFUSED), "it is new again"


def test_trouble_with_one_queue_is_told_with_its_name_and_ends_by_itself(pass_time: Callable[[float], None]) -> None:
    troubles = Troubles("processor")
    troubles.failed(REFUSED, "a.b")
    troubles.failed(REFUSED, "a.c")
    pass_time(LASTING_SECONDS)
    troubles.worked()
    troubles.worked("a.c")
    assert troubles.lasting == {"processor of queue a.b": "OSError: connection refused"}


def test_a_worker_in_lasting_trouble_is_impaired_and_a_restart_is_not_called_for() -> None:
    redis: dict[str, Any] = {"address": "r:1", "last_beat": 100.0, "error": "", "fallbacks": []}
    status: dict[str, Any] = {
        "status": "running",
        "started_at": 0.0,
        "processes": {},
        "queues": {"q.a": 1},
        "running": 0,
        "clock_offset": 0.0,
    }
    well = judge(status | {"redis": redis | {"trouble": {}}}, now=100.0)
    assert (well.state, well.well) == ("healthy", True)
    assert judge(status | {"redis": redis}, now=100.0).well, "an older agent does not tell"
    trouble = {"canceller": "ConnectionError: gone"}
    for state in ("running", "draining"):
        verdict = judge(status | {"status": state, "redis": redis | {"trouble": trouble}}, now=100.0)
        assert (verdict.state, verdict.well, verdict.restart) == ("impaired", False, False)
        assert verdict.reason == "Redis lets it do only a part of its work: canceller (ConnectionError: gone)"
