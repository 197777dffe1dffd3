"""Keeps one process of a pool serving: starts it again when it crashes, recycles it, replaces it by new code."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.clock import monotonic
from runqy_agent.errors import ProcessNotReadyError
from runqy_agent.process.serving import Reports, ServingProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.process.command import Command
    from runqy_agent.process.recovery import Recovery

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """After how much a process is recycled. 0 is never.

    Attributes:
        tasks: after so many.
        memory: bytes of resident memory, its children included.
    """

    tasks: int = 0
    memory: int = 0


class Supervisor:
    """One place in a pool.

    All that takes time is done one after another by ``watch``: restarts, recycling, replacing. Only the end of a
    process is accounted for at once, whatever is going on.

    Attributes:
        state: ``starting``, ``ready``, ``recycling``, ``recovering`` or ``degraded``.
        reason: why it is not ready.
        retry_at: when it is started next, monotonic seconds; 0 when it is not waiting for that.
        memory: resident bytes of its process, when that was last looked at.
        recovery: counts its crashes.
        on_change: called when its state has changed.
    """

    def __init__(self, command: Command, reports: Reports, recovery: Recovery, limits: Limits) -> None:
        self.state = "starting"
        self.reason = ""
        self.retry_at = 0.0
        self.memory = 0
        self.recovery = recovery
        self.on_change: Callable[[], None] = lambda: None
        self._command = command
        self._reports = reports
        self._limits = limits
        self._process: ServingProcess | None = None
        self._retiring: dict[ServingProcess, asyncio.Task[None]] = {}
        self._requests: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._news = asyncio.Event()
        self._start_at: float | None = 0.0
        self._stopping = False

    # Tasks.

    @property
    def open(self) -> bool:
        """Whether it takes tasks now."""
        return self.state == "ready"

    @property
    def load(self) -> int:
        """How many tasks its process has."""
        return self._process.load if self._process else 0

    @property
    def given(self) -> int:
        """How many tasks its process was given in all."""
        return self._process.given if self._process else 0

    @property
    def pid(self) -> int:
        """Of its process; 0 if there is none."""
        return self._process.child.pid if self._process and self._process.alive else 0

    @property
    def gpu(self) -> str:
        """What it sees of the GPUs, as CUDA names it; "" for whatever there is."""
        return self._command.gpu

    def give(self, tasks: Sequence[TakenTask]) -> Sequence[TakenTask]:
        """Hand tasks to the process. Returns those it is not to have, since it is recycled before them."""
        if self._process is None:
            return tasks
        left = self._limits.tasks - self._process.given if self._limits.tasks else 0
        taken = tasks[:left] if left > 0 else tasks  # beyond its limit it waits for its turn, and serves meanwhile
        self._process.give(taken)
        return tasks[len(taken) :]

    @property
    def due(self) -> str:
        """Why its process should be recycled; "" if it should not."""
        if self._limits.tasks and self._process and self._process.given >= self._limits.tasks:
            return f"it has had its {self._limits.tasks} tasks (worker.max_tasks_per_process)"
        if self._limits.memory and self.memory > self._limits.memory:
            used, allowed = self.memory >> 20, self._limits.memory >> 20
            return f"it uses {used} MiB of memory, more than {allowed} MiB (worker.max_process_memory)"
        return ""

    def abandon(self, task: TakenTask) -> bool:
        """Forget a task. Returns whether it was here."""
        serving = [*self._retiring, *([self._process] if self._process else [])]
        return any(process.abandon(task) for process in serving)

    # Start and watch.

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ProcessNotReadyError: it is not going to be. ``try_again`` leaves the rest to ``watch``.
        """
        await self._serve(self._command)

    def try_again(self, error: ProcessNotReadyError) -> None:
        """Another start is to follow this one that failed, when and if the recovery rules say so."""
        log.error("queue %s: %s", self._command.label, error)
        self._crashed(str(error))

    async def watch(self) -> None:
        """Do what there is to be done, until cancelled."""
        while True:
            if self._requests:
                await self._requests.popleft()()
            elif self._process is None or not self._process.alive:
                await self._recover()
            else:
                self._news.clear()
                await self._news.wait()

    async def _serve(self, command: Command, *, new_code: bool = False) -> None:
        process = ServingProcess(command, self._reports)
        process.on_hung = lambda: self._hangs(process)
        process.on_end = self._ended
        await process.start()
        self._process = process
        self.memory = 0
        self._command = command
        if new_code:
            self.recovery.forgive()
        self.recovery.became_ready()
        self._became("ready")

    def _hangs(self, process: ServingProcess) -> None:
        if process is self._process:
            self._became("recovering", f"the process was restarted: {process.hung}")

    def _ended(self, process: ServingProcess) -> None:
        retirement = self._retiring.pop(process, None)
        if retirement is None and process is self._process and not self._stopping:
            if process.hung or process.stopping:
                self._start_at = 0.0
            else:
                self._crashed(process.child.how_it_ended())
        self._news.set()

    def _crashed(self, why: str) -> None:
        delay = self.recovery.crashed()
        loop = asyncio.get_running_loop()
        self._start_at = None if delay is None else loop.time() + delay
        self.retry_at = 0.0 if delay is None else monotonic() + delay
        name = self._command.label
        if delay is None:
            log.error("a process of queue %s stays down until the worker is restarted: %s", name, why)
            self._became("degraded", why, self.retry_at)
        else:
            log.warning("starting the process of queue %s again in %.1f s", name, delay)
            self._became("recovering", why, self.retry_at)

    async def _recover(self) -> None:
        """Wait until it is time and try once; a request comes first."""
        self._news.clear()
        if self._requests:
            return
        wait = None if self._start_at is None else max(0.0, self._start_at - asyncio.get_running_loop().time())
        try:
            await asyncio.wait_for(self._news.wait(), wait)
        except asyncio.TimeoutError:
            await self._try()

    async def _try(self) -> None:
        try:
            await self._serve(self._command)
        except ProcessNotReadyError as error:
            self.try_again(error)

    def _became(self, state: str, reason: str = "", retry_at: float = 0.0) -> None:
        if not self._stopping:
            self.state, self.reason, self.retry_at = state, reason, retry_at
            self.on_change()

    # Recycling and replacing.

    def close(self, why: str) -> None:
        """Take no more tasks, since ``recycle`` follows at once.

        Args:
            why: for the log and the status.
        """
        log.info("recycling process %d of queue %s: %s", self.pid, self._command.label, why)
        self._became("recycling", why)

    async def recycle(self) -> None:
        """Let the process finish what it has, stop it, and start another. Returns when that is done."""
        process = self._process
        if process is None:
            return

        async def exchange() -> None:
            await process.drained()
            if process is self._process and process.alive:  # else it has crashed meanwhile, which is dealt with as ever
                await process.stop()
                await self._try()

        await self._request(exchange)

    async def replace(self, command: Command) -> None:
        """Start new code beside the process; once that is ready new tasks go there, and the old one drains and ends.

        Raises:
            ProcessNotReadyError: the new code did not become ready. The old one goes on as before.
        """

        async def exchange() -> None:
            old = self._process
            await self._serve(command, new_code=True)
            if old is not None and old.alive:
                old.on_hung = lambda: None
                self._retiring[old] = asyncio.ensure_future(self._retire(old))

        await self._request(exchange)

    async def _request(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have ``watch`` do something, and wait until it is done. What it raises is raised here."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def report() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                done.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(None)

        self._requests.append(report)
        self._news.set()
        await done

    async def _retire(self, process: ServingProcess) -> None:
        pid, name = process.child.pid, self._command.label
        log.info("process %d of queue %s takes no more tasks; it has %d to finish", pid, name, process.load)
        await process.drained()
        if process.alive:
            await process.stop()
        self._retiring.pop(process, None)
        log.info("process %d of queue %s has finished, new code serves", pid, name)

    async def settled(self) -> None:
        """Wait until the processes that were replaced have ended."""
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)

    # Stop.

    async def stop(self) -> None:
        """Stop its processes; tasks they have not answered are not reported any more."""
        self._stopping = True
        self.state = "stopped"
        for retirement in self._retiring.values():
            retirement.cancel()
        serving = [*self._retiring, *([self._process] if self._process else [])]
        await asyncio.gather(*(process.stop() for process in serving))
