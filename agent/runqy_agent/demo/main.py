"""``runqy-agent demo``: a worker as in production, what it needs around it, and tasks flowing through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from runqy_agent.demo import report
from runqy_agent.demo.report import Ending
from runqy_agent.demo.scenario import ENDED, jobs
from runqy_agent.demo.stage import set_up
from runqy_agent.demo.terminal import Terminal
from runqy_agent.demo.workers import DemoWorker, DeployedWorker, InProcessWorker
from runqy_agent.errors import DeploymentError, EnvironmentBuildError, ExitCode
from runqy_agent.redaction import Redactor
from runqy_agent.reporting.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from runqy_agent.config import Config
    from runqy_agent.demo.client import TaskClient, TaskInfo
    from runqy_agent.demo.scenario import Job
    from runqy_agent.demo.stage import Stage

_RETRY_SECONDS = 1.0
"""After a failure the demo lets a task try again, as a dashboard does on request: asynq would wait for 15 s or more."""
_PATIENCE_SECONDS = 25.0
"""For all tasks together."""
_LOOK_SECONDS = 0.1
_LOG_LINES = 30


def run_demo(*, keep: bool, playbook: Path | None = None) -> int:
    """Run the demo.

    Args:
        keep: when all tasks have ended, leave everything running until Ctrl-C.
        playbook: deploy the worker with it, instead of running one in this process.

    Returns:
        The exit code: zero if every task ended as it should.

    Raises:
        RunqyAgentError: something is missing, or the worker could not start.
    """
    return asyncio.run(_demo(keep=keep, playbook=playbook))


class _Interruptions:
    """SIGINT and SIGTERM: the first one cancels the demo; once the worker is ending, they tell it to hurry.

    Attributes:
        ending: the worker, when it has been told to stop.
    """

    def __init__(self) -> None:
        self.ending: DemoWorker | None = None
        self._demo = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._interrupt)

    def _interrupt(self) -> None:
        if self.ending is not None:
            self.ending.stop()
        elif self._demo is not None:
            self._demo.cancel()


async def _demo(*, keep: bool, playbook: Path | None) -> int:
    interruptions = _Interruptions()
    terminal = Terminal()
    try:
        with set_up() as stage:
            report.opening(stage, terminal)
            return await _perform(stage, terminal, interruptions, keep=keep, playbook=playbook)
    except asyncio.CancelledError:
        terminal.say("interrupted; everything is stopped")
        return ExitCode.OTHER
    except EnvironmentBuildError as error:
        raise DeploymentError(
            f"{error}\nthe demo installs runqy-python for its sample tasks: can pip reach a package index from here?"
        ) from error
    finally:
        terminal.settle()


async def _perform(
    stage: Stage, terminal: Terminal, interruptions: _Interruptions, *, keep: bool, playbook: Path | None
) -> int:
    config, redactor = stage.config(), Redactor()
    redactor.add([stage.server.api_key])
    with _logging_to(stage.log, config, redactor):
        worker: DemoWorker = DeployedWorker(stage, playbook) if playbook else InProcessWorker(stage, redactor)
        await _start(worker, terminal, "deploying the worker with Ansible" if playbook else "starting the worker")
        running = asyncio.create_task(worker.run())
        try:
            endings = await _watch(stage.tasks, jobs(), running, terminal)
            report.table(endings, terminal)
            terminal.say(f"\n{report.summary(endings)}")
            if keep:
                await _stay(stage, running, terminal)
        finally:
            interruptions.ending = worker
            worker.stop()
            await running
    if all(ending.as_expected for ending in endings):
        return ExitCode.DONE
    terminal.say(f"\nthe end of {stage.log}:\n{_tail(stage.log)}")
    return ExitCode.OTHER


@contextlib.contextmanager
def _logging_to(path: Path, config: Config, redactor: Redactor) -> Iterator[None]:
    path.unlink(missing_ok=True)  # another demo may still be writing the old one
    with path.open("w", encoding="utf-8", errors="replace") as file:
        configure_logging(config.log, redactor, file)
        try:
            yield
        finally:
            logging.getLogger().handlers.clear()


async def _start(worker: DemoWorker, terminal: Terminal, doing: str) -> None:
    began = time.monotonic()

    def tick() -> None:
        seconds = time.monotonic() - began
        terminal.show(f"{doing}, {seconds:.0f} s (the first time, virtual environments are built)")

    await _ticking(worker.start(), tick)
    terminal.say(f"the worker is ready after {time.monotonic() - began:.1f} s")


async def _ticking(work: Coroutine[Any, Any, None], tick: Callable[[], None]) -> None:
    """Do something; tick meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_LOOK_SECONDS))[0]:
            tick()
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    await task


async def _watch(
    client: TaskClient, expected: Sequence[Job], running: asyncio.Task[None], terminal: Terminal
) -> list[Ending]:
    """Enqueue the tasks and wait until they have ended, or patience has."""
    await asyncio.to_thread(client.enqueue_all, [job.message for job in expected])
    began = time.monotonic()
    open_jobs = deque(expected)
    endings: list[Ending] = []
    failed_at: dict[str, float] = {}
    while open_jobs:
        await asyncio.wait([running], timeout=_LOOK_SECONDS)
        infos = await asyncio.to_thread(_look, client, list(open_jobs))
        seconds = time.monotonic() - began
        given_up = running.done() or seconds > _PATIENCE_SECONDS
        states = Counter(ending.info.state for ending in endings if ending.info)
        for info in infos:
            job = open_jobs.popleft()
            states[info.state if info else "gone"] += 1
            if given_up or info is None or info.state in ENDED:
                endings.append(Ending(job, info, seconds))
            else:
                await _retry(client, info, failed_at, seconds)
                open_jobs.append(job)
        terminal.show(report.progress(states, seconds))
    return endings


async def _retry(client: TaskClient, info: TaskInfo, failed_at: dict[str, float], seconds: float) -> None:
    """Let a task try again a moment after it has failed."""
    if info.state == "retry":
        attempt = f"{info.id} {info.message.retried}"
        if seconds - failed_at.setdefault(attempt, seconds) >= _RETRY_SECONDS:
            await asyncio.to_thread(client.retry_now, info.queue, info.id)


def _look(client: TaskClient, tasks: Sequence[Job]) -> list[TaskInfo | None]:
    return [client.info(job.message.queue, job.message.id) for job in tasks]


async def _stay(stage: Stage, running: asyncio.Task[None], terminal: Terminal) -> None:
    """Leave it running until it is interrupted."""
    terminal.say(report.invitation(stage))
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait([running])
    terminal.say("stopping")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
