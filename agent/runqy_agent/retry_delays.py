"""How long a failed task waits before its next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runqy_agent.broker.message import TakenTask

RetryDelay = Callable[[int, str, "TakenTask"], float]
"""From the retries used so far, the error's text and the task to seconds."""


def exponential_retry_delay(retried: int, error: str, task: TakenTask) -> float:  # noqa: ARG001
    """Asynq's default: n⁴ + 15 + random(0..29)·(n + 1) seconds.

    Args:
        retried: n, the retries used so far.
        error: not used by this rule.
        task: not used by this rule.

    Returns:
        Seconds.
    """
    return float(retried**4 + 15 + random.randrange(30) * (retried + 1))  # jitter, not a secret


def fixed_retry_delay(seconds: float) -> RetryDelay:
    """A rule: always the same delay.

    Raises:
        ValueError: negative.
    """
    if seconds < 0:
        raise ValueError(f"a retry delay cannot be negative, got {seconds}")
    return lambda _retried, _error, _task: seconds


def linear_retry_delay(seconds: float, *, longest: float = float("inf")) -> RetryDelay:
    """A rule: ``seconds`` before the second attempt, twice that before the third, and so on up to ``longest``.

    Raises:
        ValueError: negative.
    """
    if seconds < 0:
        raise ValueError(f"a retry delay cannot be negative, got {seconds}")
    return lambda retried, _error, _task: min(seconds * (retried + 1), longest)
