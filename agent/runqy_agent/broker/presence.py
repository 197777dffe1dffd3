"""How this worker shows itself in Redis: to asynq's inspector and to the runqy server, each in its own way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from runqy_agent._version import __version__
from runqy_agent.broker import keys
from runqy_agent.broker.asynq_pb2 import ServerInfo, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.clock import Clock

SERVER_TTL = 10
"""Seconds asynq's records live: twice its beat."""
WORKER_TTL = 30
"""Seconds the runqy server's record lives."""


@dataclass(frozen=True)
class Identity:
    """Who this worker is; different for each start of a process.

    Attributes:
        host, pid: of this process.
        uuid: tells apart what ``host:pid`` cannot, in containers where the pid is 1 everywhere.
        started_at: monotonic seconds.
    """

    host: str
    pid: int
    uuid: str
    started_at: float

    @property
    def worker_id(self) -> str:
        """``host:pid:uuid``, the id in the runqy server's list."""
        return f"{self.host}:{self.pid}:{self.uuid}"


class Health(Protocol):
    """How a runner is, as far as it is told in Redis and by the status; see ``RunnerHealth``."""

    state: str
    reason: str
    since: float
    retry_at: float
    commit: str
    stale: bool
    wanted: str
    stale_reason: str
    consecutive_fails: int
    total_restarts: int
    dropped_responses: int

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """How each of its processes is."""


@dataclass(frozen=True)
class WorkerState:
    """What is told with one beat.

    Attributes:
        status: ``bootstrapping``, ``running``, ``draining`` or ``stopped``.
        queues: sub-queue to priority.
        health: parent queue to how its runner is.
        metrics: the load of the host, as JSON.
        running: the tasks in progress.
        clock_offset: seconds by which the host's clock is ahead of Redis'; None if that is not known.
        set_aside: called with a task that cannot be told of, and why.
        outcomes: how many tasks have ended how since the start: ``Success``, ``Failure``, ``Lost`` and others.
    """

    status: str
    concurrency: int
    queues: Mapping[str, int]
    strict_priority: bool
    health: Mapping[str, Health] = field(default_factory=dict)
    metrics: str = "{}"
    running: Iterable[TakenTask] = ()
    set_aside: Callable[[TakenTask, Exception], None] = lambda _task, _error: None
    clock_offset: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether every parent queue can be served."""
        return bool(self.health) and all(health.state == "ready" for health in self.health.values())

    @property
    def tasks(self) -> str:
        """JSON: how many tasks have ``succeeded``, ``failed``, were ``put_back`` or ``lost``, since the start."""
        kinds = {"succeeded": "Success", "failed": "Failure", "put_back": "Unstarted", "lost": "Lost"}
        return json.dumps({name: self.outcomes.get(kind, 0) for name, kind in kinds.items()})

    @property
    def recovery(self) -> str:
        """JSON: for each parent queue ``state``, ``consecutive_fails`` and ``total_restarts``."""
        names = ("state", "consecutive_fails", "total_restarts")
        return json.dumps(
            {queue: {name: getattr(health, name) for name in names} for queue, health in self.health.items()}
        )

    @property
    def commits(self) -> str:
        """JSON: for each parent queue whose code comes from a repository, which commit of it serves."""
        return json.dumps({queue: health.commit for queue, health in self.health.items() if health.commit})

    @property
    def stale(self) -> str:
        """JSON: for each parent queue that serves other code than it should ``commit``, ``wanted`` and ``reason``."""
        return json.dumps(
            {
                queue: {"commit": health.commit, "wanted": health.wanted, "reason": health.stale_reason}
                for queue, health in self.health.items()
                if health.stale
            }
        )


class Presence:
    """Writes and removes the records of one worker."""

    def __init__(self, broker: Broker, clock: Clock, identity: Identity) -> None:
        self.identity = identity
        self._broker = broker
        self.clock = clock
        self.time = broker.time
        self._started = 0.0
        self._server_key = keys.server(identity.worker_id)
        self._active_key = keys.active_workers(identity.worker_id)
        self._worker_key = keys.worker(identity.worker_id)
        self._output_key = keys.worker_output(identity.worker_id)

    async def beat(self, state: WorkerState) -> None:
        """Write everything anew. Raises what Redis raises."""
        now = int(self.clock.now())
        running = list(state.running)
        args: list[bytes | str | int] = [SERVER_TTL, self._server_info(state, len(running))]
        moment = self.clock.monotonic()
        for task in running:
            try:
                args += (task.id, self._worker_info(task, moment))
            except Exception as error:  # noqa: BLE001, PERF203  # whatever it is, it is this task's
                state.set_aside(task, error)
        ends = now + SERVER_TTL
        listed = [ends, self._active_key, now + WORKER_TTL, self.identity.worker_id]
        record = [value for field_and_value in self._record(state, now).items() for value in field_and_value]
        await self._broker.run_scripts(
            ("beat", [self._server_key, self._active_key], args),
            ("enlist", [keys.SERVERS], [ends, self._server_key]),
            ("enlist", [keys.WORKERS], listed),
            ("record", [self._worker_key], [WORKER_TTL, *record]),
        )

    async def write_output(self, lines: Sequence[str], *, keep: int) -> bool:
        """Add lines to the list of what the processes print, and renew its life. Raises what Redis raises.

        Args:
            lines: as JSON; maybe none.
            keep: how many of the newest stay.

        Returns:
            Whether there were lines before.
        """
        return bool(await self._broker.run_script("printed", [self._output_key], [WORKER_TTL, keep, *lines]))

    async def clear(self) -> None:
        """Remove every record of this worker. Raises what Redis raises."""
        async with self._broker.client.pipeline(transaction=False) as pipeline:
            pipeline.zrem(keys.SERVERS, self._server_key)
            pipeline.zrem(keys.WORKERS, self._active_key, self.identity.worker_id)
            for key in (self._server_key, self._active_key, self._worker_key, self._output_key):
                pipeline.delete(key)
            await pipeline.execute()

    def _record(self, state: WorkerState, now: int) -> dict[str, str | int]:
        queues = " ".join(f"{name}:{priority}" for name, priority in sorted(state.queues.items()))
        return {
            "started_at": int(self._started_at()),
            "started": int(self._started_at()),
            "last_beat": now,
            "concurrency": state.concurrency,
            "queues": f"map[{queues}]",
            "status": state.status,
            "healthy": "true" if state.healthy else "false",
            "version": __version__,
            "metrics": state.metrics,
            "recovery": state.recovery,
            "commits": state.commits,
            "stale": state.stale,
            "tasks": state.tasks,
            "clock_offset": "" if state.clock_offset is None else str(state.clock_offset),
        }

    def _started_at(self) -> float:
        """When the worker started, by Redis' clock; the same in every beat unless that was set."""
        started = self.identity.started_at + self.clock.offset
        if abs(started - self._started) > 1.0:
            self._started = started
        return self._started

    def _server_info(self, state: WorkerState, running: int) -> bytes:
        return ServerInfo(
            host=self.identity.host,
            pid=self.identity.pid,
            server_id=self.identity.uuid,
            concurrency=state.concurrency,
            queues=dict(state.queues),
            strict_priority=state.strict_priority,
            status={"running": "active", "bootstrapping": "new", "draining": "closed"}.get(state.status, state.status),
            start_time=_timestamp(self._started_at()),
            active_worker_count=running,
        ).SerializeToString()

    def _worker_info(self, task: TakenTask, now: float) -> bytes:
        """One that waits for its run, behind others of its process, is told as if it began now."""
        began = task.began_at or now
        deadline = min(task.deadline, began + task.timeout) if task.timeout else task.deadline
        offset = self.clock.offset
        return WorkerInfo(
            host=self.identity.host,
            pid=self.identity.pid,
            server_id=self.identity.uuid,
            task_id=task.id,
            task_type=task.type,
            task_payload=task.payload,
            queue=task.queue,
            start_time=_timestamp(began + offset),
            deadline=_timestamp(deadline + offset),
        ).SerializeToString()


_LATEST = 253_402_300_799
"""Unix seconds of 9999-12-31, the end of what a Timestamp holds."""


def _timestamp(seconds: float) -> Timestamp:
    seconds = min(max(seconds, 0.0), _LATEST)
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))
