"""``runqy-agent demo``: a worker as in production, with everything it needs around it, and tasks flowing through."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from runqy_agent.demo import farewell
from runqy_agent.demo.scenario import ENDED, Job, jobs
from runqy_agent.demo.stage import Stage, set_up
from runqy_agent.demo.terminal import Terminal
from runqy_agent.errors import EnvironmentBuildError, ExitCode
from runqy_agent.reporting.logs import Redactor, configure_logging
from runqy_agent.retry_delays import fixed_retry_delay
from runqy_agent.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runqy_agent.demo.client import TaskInfo

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""asynq's own delays begin at 15 s, too long to watch."""
_PATIENCE_SECONDS = 25.0
_LOOK_SECONDS = 0.1
_LOG_LINES = 40


def run_demo(*, keep: bool) -> int:
    """Run the demo.

    Args:
        keep: when all tasks have ended, leave everything running until Ctrl-C.

    Returns:
        Zero if every task ended as it should, else one.

    Raises:
        RunqyAgentError: the worker could not start.
    """
    return asyncio.run(_Demo(keep=keep).play())


class _Demo:
    """One run. The first interruption ends it in good order, the second hurries."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._terminal = Terminal()
        self._worker: Worker | None = None
        self._done = False

    async def play(self) -> int:
        """From the first line to the last. Returns the exit code."""
        playing = asyncio.create_task(self._play())

        def interrupted() -> None:
            if self._worker is None or not playing.cancelling_begun:
                pass

        return await playing

    async def _play(self) -> int:
        return 0
