"""What the processor sees of whatever runs the tasks of one parent queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypedDict

from runqy_agent.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from runqy_agent.broker.message import TakenTask
    from runqy_agent.outcome import Outcome
    from runqy_agent.process.command import Command


class Sink(Protocol):
    """Where a runner reports. The processor is one."""

    def finished(self, task: TakenTask, outcome: Outcome) -> None:
        """The run of a task has ended."""

    def wake(self) -> None:
        """There are outcomes to write."""

    def health_changed(self) -> None:
        """A runner's readiness or health is another now."""


class ProcessHealth(TypedDict):
    """How one process is.

    Attributes:
        pid: 0 if there is none now.
        state: as that of a runner, or ``recycling``.
        reason: why it is not ready.
        tasks: how many it has in flight.
        memory: resident bytes, its children included; 0 if that is not known yet.
        restarts: after crashes, since the worker started.
        gpu: which it sees, as CUDA names it; "" for whatever there is.
    """

    pid: int
    state: str
    reason: str
    tasks: int
    memory: int
    restarts: int
    gpu: str


@dataclass
class RunnerHealth:
    """How a runner is, for the heartbeat.

    Attributes:
        state: ``starting``, ``ready``, ``recovering``, ``degraded`` or ``stopped``.
        reason: why it is not ready.
        since: when it came into this state, monotonic seconds.
        retry_at: when its process is started next, monotonic seconds; 0 when it is not waiting for that.
        commit: which commit of the author's code it runs.
        stale: whether that is not the commit it should run.
        wanted: the commit it should run; "" if that is not known.
        stale_reason: why it runs another one.
        dropped_responses: answers to tasks that were not in flight.
        look: gives how each process is.
    """

    state: str = "starting"
    reason: str = ""
    since: float = field(default_factory=monotonic)
    retry_at: float = 0.0
    commit: str = ""
    stale: bool = False
    wanted: str = ""
    stale_reason: str = ""
    consecutive_fails: int = 0
    total_restarts: int = 0
    dropped_responses: int = 0
    look: Callable[[], list[ProcessHealth]] = list

    @property
    def processes(self) -> list[ProcessHealth]:
        """How each process is now."""
        return self.look()


class Runner(Protocol):
    """Runs the tasks of one parent queue.

    Attributes:
        name: the parent queue.
        ready: whether it takes tasks now.
        health: how it is.
    """

    name: str
    ready: bool
    health: RunnerHealth

    def attach(self, sink: Sink) -> None:
        """Say where outcomes go, before the first task."""

    async def start(self) -> None:
        """Become ready. Raises ProcessNotReadyError if that fails."""

    async def watch(self) -> None:
        """Keep it going until it is stopped; runs beside the worker's loops."""

    def run(self, tasks: Sequence[TakenTask]) -> None:
        """Begin tasks; each will be reported to the sink once."""

    def abandon(self, task: TakenTask) -> None:
        """Nobody waits for this task any more; stop working on it, and report nothing for it."""

    async def stop(self) -> None:
        """End everything it has started."""


class ProcessRunner(Runner, Protocol):
    """A runner whose tasks are run by processes of the task author."""

    def use(self, commands: Sequence[Command]) -> None:
        """Say how its processes are started; before ``start``, or again after it has failed."""

    async def replace(self, command: Command) -> None:
        """Go over to new code without losing a task.

        Raises:
            ProcessNotReadyError: the new code did not become ready; everything is as it was.
        """

    async def settled(self) -> None:
        """Wait until nothing runs any more of the code that the last ``replace`` has replaced."""


class BaseRunner:
    """What all runners have: a name, a sink, and a health that is told when it changes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = False
        self.health = RunnerHealth()
        self._sink: Sink

    def attach(self, sink: Sink) -> None:
        """Say where outcomes go."""
        self._sink = sink

    async def watch(self) -> None:
        """Nothing has to be kept going between tasks."""
        await asyncio.get_running_loop().create_future()  # until cancelled

    def _became(self, state: str, reason: str = "", *, ready: bool | None = None, retry_at: float = 0.0) -> None:
        """Change the state.

        Args:
            state: see ``RunnerHealth``.
            reason: why it is not ready.
            ready: whether it takes tasks; None if that follows from the state.
            retry_at: see ``RunnerHealth``.
        """
        self.ready = state == "ready" if ready is None else ready
        if state != self.health.state:  # each failed restart is another reason to recover, not another recovery
            self.health.since = monotonic()
        self.health.state = state
        self.health.reason = reason
        self.health.retry_at = retry_at
        self._sink.health_changed()


@dataclass(slots=True)
class InFlight:
    """Tasks given to a runner and not answered, oldest first.

    Ids are unique within a queue only. A second task with an id that is already in flight waits for its turn.
    """

    tasks: dict[str, TakenTask] = field(default_factory=dict)
    waiting: list[TakenTask] = field(default_factory=list)

    def add(self, task: TakenTask, others: Container[str] = ()) -> bool:
        """Take a task in. False if one of the same id is in flight, or among ``others``: then it waits."""
        if task.id in self.tasks or task.id in others:
            self.waiting.append(task)
            return False
        self.tasks[task.id] = task
        return True

    def remove(self, task: TakenTask) -> bool:
        """Forget a task. True if it was in flight; False if it was only waiting, or not there at all."""
        if self.tasks.get(task.id) is task:
            del self.tasks[task.id]
            return True
        if task in self.waiting:
            self.waiting.remove(task)
        return False

    def next_waiting(self, task_id: str) -> TakenTask | None:
        """The first task that waited for an id to become free, now in flight."""
        for task in self.waiting:
            if task.id == task_id:
                self.waiting.remove(task)
                self.tasks[task_id] = task
                return task
        return None

    def take_all(self) -> list[TakenTask]:
        """Empty it, oldest first."""
        everything = [*self.tasks.values(), *self.waiting]
        self.tasks.clear()
        self.waiting.clear()
        return everything
