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
}


def check_unsupported(given: Mapping[str, Given], warnings: list[str]) -> None:
    """Warn of explicit settings without effect."""
    for path, asks in NO_EFFECT_YET.items():
        if path in given and asks(given[path].value):
            warnings.append(f"{given[path].origin}: {path}: has no effect in this version")
