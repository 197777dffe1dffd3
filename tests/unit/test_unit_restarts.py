"""How long systemd goes on starting a worker whose Redis or server is away."""

from __future__ import annotations

import re
from pathlib import Path

TEMPLATE = Path(__file__).parents[2] / "roles" / "runqy_agent" / "templates" / "agent.service.j2"
AWAY_SECONDS = 600
FASTEST_START = 0.2
"""Seconds that a start takes at least which fails because nobody listens, with ``bootstrap.retries: 1``."""


def setting(name: str) -> list[str]:
    """The values of a setting; lines of comments are none."""
    return re.findall(rf"^{name}=(.*)$", TEMPLATE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_unit_outlasts_a_redis_that_is_away_for_ten_minutes_when_the_host_boots() -> None:
    assert setting("Restart") == ["on-failure"]
    (pause,) = map(float, setting("RestartSec"))
    (interval,) = map(float, setting("StartLimitIntervalSec"))
    starts = min(interval, AWAY_SECONDS) / (pause + FASTEST_START)
    burst = max(map(int, setting("StartLimitBurst")), default=5)
    assert interval == 0 or starts < burst, "systemd would give up"
    assert "6" not in " ".join(setting("RestartPreventExitStatus")).split()
