"""Keys that are accepted but not acted on yet. A line goes when its feature comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runqy_agent.config.sources import Given

_Condition = Callable[[Any], bool]

# Harmless to ignore: the worker serves correctly, only without the wish. Noted in a warning.
NO_EFFECT_YET: dict[str, _Condition] = {
    "worker.processes": lambda value: value > 1,
    "worker.gpus": bool,
    "worker.max_tasks_per_process": bool,
    "status.listen": bool,
}

# Not harmless: tasks would be looked for in the wrong place. Refused.
NOT_SUPPORTED_YET: dict[str, _Condition] = {
    "redis.layout": lambda value: value != "asynq",
}


def check_unsupported(given: Mapping[str, Given], problems: list[str], warnings: list[str]) -> None:
    """Warn of explicit settings without effect, and refuse those that would mislead."""
    for path, asks in NO_EFFECT_YET.items():
        if path in given and asks(given[path].value):
            warnings.append(f"{given[path].origin}: {path}: has no effect in this version")
    for path, asks in NOT_SUPPORTED_YET.items():
        if path in given and asks(given[path].value):
            problems.append(f"{given[path].origin}: {path}: not supported by this version")
