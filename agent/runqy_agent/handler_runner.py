"""Runs tasks with handlers of this very process, for programs that embed the worker."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from runqy_agent.clock import monotonic
from runqy_agent.handlers import NoHandlerError, RevokeTask, ServeMux, SkipRetry, Task
from runqy_agent.outcome import Failure, Outcome, Revoked, Success
from runqy_agent.process.runner import BaseRunner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.message import TakenTask

log = logging.getLogger(__name__)


class HandlerRunner(BaseRunner):
    """A runner whose tasks are coroutines."""

    def __init__(self, name: str, mux: ServeMux) -> None:
        super().__init__(name)
        self._mux = mux
        self._running: dict[TakenTask, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """There is nothing to wait for."""
        self._became("ready")

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Begin each task."""
        now = monotonic()
        for task in tasks:
            task.begin(now)
            self._running[task] = asyncio.ensure_future(self._run(task))

    async def _run(self, taken: TakenTask) -> None:
        try:
            outcome = await self._outcome(Task(taken))
        except asyncio.CancelledError:
            if taken not in self._running:
                raise  # abandoned, or stopped
            outcome = Failure("the handler was cancelled from within")
        if self._running.pop(taken, None) is not None:  # not abandoned in the meantime
            self._sink.finished(taken, outcome)
            self._sink.wake()

    async def _outcome(self, task: Task) -> Outcome:
        try:
            returned = await self._mux(task)
            return Success(task.result_writer.data if task.result_writer.data is not None else _encode(returned))
        except RevokeTask:
            return Revoked()
        except NoHandlerError as error:
            return Failure(str(error))
        except SkipRetry as error:
            return Failure(str(error) or "the handler asked not to retry", retry=False)
        except (Exception, SystemExit):  # noqa: BLE001  # whatever a handler raises is its task's failure
            return Failure(traceback.format_exc())

    def abandon(self, task: TakenTask) -> None:
        """Cancel the handler; nothing is reported for the task."""
        running = self._running.pop(task, None)
        if running is not None:
            running.cancel()

    async def stop(self) -> None:
        """Cancel what runs."""
        self._became("stopped")
        running = list(self._running.values())
        self._running.clear()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _encode(value: Any) -> bytes | None:
    if value is None:
        return None
    return bytes(value) if isinstance(value, bytes | bytearray) else msgspec.json.encode(value)
