"""The long-running processes of one parent queue: tasks go to the one with the least to do."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.outcome import Unstarted
from runqy_agent.process.runner import BaseRunner, ProcessHealth, RunnerHealth
from runqy_agent.process.serving import Reports
from runqy_agent.process.supervisor import Limits, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.process.command import Command
    from runqy_agent.process.recovery import Recovery

log = logging.getLogger(__name__)

MEMORY_SECONDS = 5.0
"""Between two looks at how much memory the processes use."""

_WORST_FIRST = ("degraded", "recovering", "starting")


class Pool(BaseRunner):
    """Runs tasks in one or more long-running processes.

    It takes tasks as long as one process is ready. It is well (``ready``) only if all are, those being recycled aside.
    """

    def __init__(
        self,
        name: str,
        recovery: Callable[[], Recovery],
        *,
        limits: Limits | None = None,
        fail_all: bool = False,
    ) -> None:
        """Make one.

        Args:
            name: the parent queue.
            recovery: makes the rules by which one is started again.
            limits: when a process is recycled.
            fail_all: after a crash every task in flight fails, not only the one that was being executed.
        """
        super().__init__(name)
        self.health = RunnerHealth(look=self._look)
        self._commands: list[Command] = []
        self._recovery = recovery
        self._limits = limits or Limits()
        self._fail_all = fail_all
        self._supervisors: list[Supervisor] = []
        self._open: list[Supervisor] = []
        self._recycling: asyncio.Task[None] | None = None
        self._stopping = False

    def use(self, commands: Sequence[Command]) -> None:
        """Say how each process is started; before ``start``, or again after it has failed."""
        reports = Reports(self._sink, self.health, self._fail_all)
        self._commands = list(commands)
        self._supervisors = []
        for command in commands:
            supervisor = Supervisor(command, reports, self._recovery(), self._limits)
            supervisor.on_change = self._changed
            self._supervisors.append(supervisor)

    # Start and watch.

    async def start(self) -> None:
        """Start the processes. One that is ready is enough; the others are tried again.

        Raises:
            ProcessNotReadyError: none became ready.
        """
        starts = (supervisor.start() for supervisor in self._supervisors)
        results = await asyncio.gather(*starts, return_exceptions=True)
        failed = [(each, result) for each, result in zip(self._supervisors, results, strict=True) if result is not None]
        for supervisor, error in failed:
            if len(failed) == len(results) or not isinstance(error, ProcessNotReadyError):
                raise error
            supervisor.try_again(error)

    async def watch(self) -> None:
        """Keep the processes going."""
        watches = [supervisor.watch() for supervisor in self._supervisors]
        await asyncio.gather(*watches, self._watch_memory())

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(MEMORY_SECONDS)
            pids = {supervisor.pid: supervisor for supervisor in self._supervisors if supervisor.pid}
            for pid, memory in (await asyncio.to_thread(_resident, list(pids))).items():
                if pids[pid].pid == pid:
                    pids[pid].memory = memory
            self._recycle_next()

    def _changed(self) -> None:
        """One of the processes is in another state."""
        if self._stopping:
            return
        self._open = [supervisor for supervisor in self._supervisors if supervisor.open]
        self.health.consecutive_fails = max(each.recovery.consecutive_fails for each in self._supervisors)
        self.health.total_restarts = sum(each.recovery.total_restarts for each in self._supervisors)
        ready = bool(self._open)
        for state in _WORST_FIRST:
            bad = [supervisor for supervisor in self._supervisors if supervisor.state == state]
            if bad:
                count = len(self._supervisors)
                reason = f"{len(bad)} of {count} processes: {bad[0].reason}" if count > 1 else bad[0].reason
                waiting = [each.retry_at for each in self._supervisors if each.retry_at]
                self._became(state, reason, ready=ready, retry_at=max(waiting, default=0.0))
                return
        self._became("ready" if ready else "starting", "" if ready else "its process is being recycled", ready=ready)

    def _look(self) -> list[ProcessHealth]:
        return [
            ProcessHealth(
                pid=each.pid,
                state=each.state,
                reason=each.reason,
                tasks=each.load,
                memory=each.memory if each.pid else 0,
                restarts=each.recovery.total_restarts,
                gpu=each.gpu,
            )
            for each in self._supervisors
        ]

    # Tasks.

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Give each task to the process that has the least to do."""
        left = self._open[0].give(tasks) if len(self._open) == 1 else self._distribute(tasks)
        if left:
            for task in reversed(left):
                self._sink.finished(task, Unstarted())
            self._sink.wake()
        if self._limits.tasks:
            self._recycle_next()

    def _distribute(self, tasks: Sequence[TakenTask]) -> Sequence[TakenTask]:
        shares: dict[Supervisor, list[TakenTask]] = {supervisor: [] for supervisor in self._open}
        if not shares:
            return tasks
        # Of those that have equally little to do the one that has had the least: all wear alike.
        loads = {supervisor: (supervisor.load, supervisor.given) for supervisor in shares}
        for task in tasks:
            least = min(loads, key=loads.__getitem__)
            shares[least].append(task)
            loads[least] = (loads[least][0] + 1, loads[least][1] + 1)
        return [task for supervisor, share in shares.items() for task in supervisor.give(share)]

    def abandon(self, task: TakenTask) -> None:
        """Forget a task; see ``ServingProcess.abandon``."""
        for supervisor in self._supervisors:
            if supervisor.abandon(task):
                return

    # Recycling and replacing.

    def _recycle_next(self) -> None:
        """Recycle a process that is due, if none is being recycled."""
        if self._recycling is not None or self._stopping:
            return
        for supervisor in self._open:
            if why := supervisor.due:
                supervisor.close(why)
                self._recycling = asyncio.ensure_future(self._recycle(supervisor))
                return

    async def _recycle(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.recycle()
        finally:
            self._recycling = None
        self._recycle_next()

    async def replace(self, command: Command) -> None:
        """Go over to new code, one process after another. If one does not become ready, all go back.

        Raises:
            ProcessNotReadyError: the new code did not become ready; the old one serves.
        """
        before = self._commands
        after = [command.on_gpu(old.gpu) if old.gpu else command for old in before]
        done = 0
        try:
            for supervisor, new in zip(self._supervisors, after, strict=True):
                await supervisor.replace(new)
                done += 1
        except ProcessNotReadyError:
            for supervisor, old in zip(self._supervisors[:done], before, strict=False):
                with suppress(ProcessNotReadyError):
                    await supervisor.replace(old)
            raise
        self._commands = after

    async def settled(self) -> None:
        """Wait until no process of replaced code has tasks any more."""
        await asyncio.gather(*(supervisor.settled() for supervisor in self._supervisors))

    # Stop.

    async def stop(self) -> None:
        """Stop the processes; tasks they have not answered are not reported any more."""
        self._stopping = True
        self._open = []
        self._became("stopped")
        if self._recycling is not None:
            self._recycling.cancel()
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))


def _resident(pids: Sequence[int]) -> dict[int, int]:
    """Resident bytes of processes with all their descendants. Takes some milliseconds for each."""
    found: dict[int, int] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
            found[pid] = sum(_rss(member) for member in family)
    return found


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0
