"""The worker: wires the parts together and owns their order of start, drain and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runqy_agent import assembly
from runqy_agent.announcer import Announcer
from runqy_agent.broker.access import check_access
from runqy_agent.broker.connection import Clients, resolve
from runqy_agent.broker.fallbacks import Fallbacks
from runqy_agent.broker.opening import examine, make_presence, open_broker
from runqy_agent.broker.presence import Identity, WorkerState
from runqy_agent.clock import Clock
from runqy_agent.errors import ConfigError, LoopDiedError, RunqyAgentError
from runqy_agent.handler_runner import HandlerRunner
from runqy_agent.lifecycle import Lifecycle
from runqy_agent.redaction import Redactor
from runqy_agent.registration import route
from runqy_agent.reporting.status import Status, describe_worker, redis_status
from runqy_agent.restart_needs import restart_needs
from runqy_agent.retry_delays import RetryDelay, exponential_retry_delay
from runqy_agent.rollout import Rollout
from runqy_agent.subqueues import Subqueues

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client, RedisAddress
    from runqy_agent.config import Config
    from runqy_agent.loops.processor import Processor
    from runqy_agent.loops.route import Route
    from runqy_agent.loops.waiter import Waiter
    from runqy_agent.process.runner import Runner
    from runqy_agent.registration import Registration, ServerRedis

log = logging.getLogger(__name__)


class Worker(Lifecycle):
    """One worker, from the server's word to the last task.

    With a server it deploys and supervises the task author's code. With handlers (``handle``) it serves tasks itself;
    then a server is optional, and without one Redis and the queues come from the configuration.
    """

    def __init__(
        self,
        config: Config,
        *,
        queues: Mapping[str, int] | None = None,
        clock: Clock | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """Prepare; nothing is contacted yet.

        Args:
            config: from ``load_config``.
            queues: sub-queue to priority, for a worker without a server; by default the configured queues, 1 each.
            clock: for tests.
            redactor: learns the secrets that the server sends.
        """
        super().__init__()
        self.config = config
        self.retry_delay: RetryDelay = exponential_retry_delay
        self.status = "bootstrapping"
        self._clock = clock or Clock()
        self._redactor = redactor or Redactor()
        self._queues = dict(queues or {})
        self._parents: dict[str, assembly.Parent] = {}
        self._rollout: Rollout | None = None
        self._subqueues = Subqueues()
        self._dead: list[asyncio.Task[Any]] = []
        self._died = asyncio.Event()
        self._waiter: Waiter
        self._fallbacks = Fallbacks()
        self._clients = Clients()
        self._loops: assembly.Loops
        host = socket.gethostname() or "unknown"
        self.identity = Identity(host, os.getpid(), uuid.uuid4().hex, self._clock.monotonic())
        self._broker: Broker
        self._subscriber: Client
        self._processor: Processor | None = None
        self._announcer = Announcer(self._clock)
        self.output = self._announcer.output
        self._address: RedisAddress | None = None
        self.reread: Callable[[], Config] | None = None
        """Gives the settings as they stand now, so that a redeployment can tell which need a restart."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the status or the health of a process has changed."""

    # Start.

    async def bootstrap(self) -> None:
        """Register, show up in Redis, deploy, start the processes; all but taking tasks.

        Raises:
            RunqyAgentError: of the kind that tells which step failed; nothing is left behind.
        """
        try:
            self._loop = asyncio.get_running_loop()
            registrations = await self._register()
            await self._connect(registrations[0].redis if registrations else None)
            await self._make_runners(registrations)
            subscriber = self._subscriber if self._fallbacks.cancels else None
            self._loops = assembly.make_loops(
                self.config, self._broker, subscriber, self._clock, self._routes(), clients=self._clients
            )
            self._processor = self._loops.processor
            self._processor.on_health_change = self._changed
            if self._rollout is not None:
                await self._rollout.start()
            else:
                await asyncio.gather(*(runner.start() for runner in self._runners()))
        except BaseException:
            await self._leave()
            raise

    async def _register(self) -> list[Registration]:
        if not self.config.server.url:
            if not self._mux:
                raise ConfigError("there is neither a server (server.url) nor a handler (Worker.handle): nothing to do")
            self._subqueues.served = assembly.queues_without_server(self.config, self._queues)
            return []
        registrations, self._subqueues.served = await assembly.register_and_route(self.config)
        for registration in registrations:
            self._redactor.add(registration.secrets())
        return registrations

    async def _connect(self, server: ServerRedis | None) -> None:
        self._address = address = resolve(server, self.config.redis)
        flat, bootstrap = assembly.flat_defaults(self.config), self.config.bootstrap
        self._broker = await open_broker(self._clients, address, self._clock, bootstrap, flat)
        self._subscriber = self._clients.open_subscriber(address)
        self._announcer.start(make_presence(self._broker, self._clock, self.identity), self._state)
        queues = [served.name for served in self._subqueues.served]
        await examine(self._broker, self._subscriber, address, queues, bootstrap=bootstrap, fallbacks=self._fallbacks)
        who = self.identity.uuid
        self._waiter = assembly.make_waiter(self._broker, self._clients, address, who, self._fallbacks)
        self._subqueues.listen, self._subqueues.dismiss = self._waiter.listen, self._waiter.dismiss
        log.info("worker %s serves %s from Redis at %s", self.identity.worker_id, self._subqueues, address)

    async def _make_runners(self, registrations: Sequence[Registration]) -> None:
        stored = {each.queue.name: each.deployment.redis_storage for each in registrations}
        if self._mux:
            shared = HandlerRunner("handlers", self._mux)
            names = (served.parent for served in self._subqueues.served)
            self._parents = {name: assembly.Parent(shared, stored.get(name, True)) for name in names}
            return
        self._rollout = Rollout(self.config, self._clock, self._redactor, self.output)
        self._rollout.on_change = self._changed
        self._rollout.follow = self._follow
        code = await self._rollout.prepare(registrations)
        self._parents = {name: assembly.Parent(runner, stored[name]) for name, runner in code.items()}

    def _runners(self) -> list[Runner]:
        return list(dict.fromkeys(parent.runner for parent in self._parents.values()))

    def _routes(self) -> list[Route]:
        return assembly.make_routes(self.config, self._subqueues.paired(), self._parents, self.retry_delay)

    # Run.

    async def run(self) -> None:
        """Serve tasks until ``stop`` is called, then drain and leave.

        Cancelling it ends the worker too, without waiting for running tasks: they go back into their queues.

        Raises:
            LoopDiedError: a part of the worker ended that should not have; it has drained and left all the same.
        """
        processor = self._processor
        if processor is None:
            raise RunqyAgentError("bootstrap the worker before running it")
        runners = self._runners()
        watched = [asyncio.create_task(runner.watch(), name=f"runner of {runner.name}") for runner in runners]
        watched += [loop.start() for loop in (*self._loops.all, self._waiter)]
        watched += self._announcer.tasks
        for task in watched:
            task.add_done_callback(self._has_ended)
        self._become("running")
        log.info("running: concurrency %d", self.config.worker.concurrency)
        ends = [asyncio.create_task(event.wait()) for event in (self._stop_requested, self._died)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._hurry.set()
            raise
        finally:
            dead = list(self._dead)  # what ends from now on is meant to
            for task in dead:
                log.critical("%s has ended, stopping the worker", task.get_name(), exc_info=_exception(task))
            for end in ends:
                end.cancel()
            if self._rollout is not None:
                await self._rollout.stop()
            await self._drain(processor, processor_alive=processor.task not in dead)
            for task in watched[: len(runners)]:
                task.cancel()
            await asyncio.gather(*(runner.stop() for runner in runners), return_exceptions=True)
            await processor.stop()
            await self._loops.leases.stop()
            await self._leave()
        if dead:
            raise LoopDiedError(f"{dead[0].get_name()} has ended: {_exception(dead[0])!r}")

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._dead.append(task)
        self._died.set()

    async def _follow(self, answers: Sequence[Registration]) -> list[str]:
        """Serve the sub-queues that the server names now. Returns what only a restart brings into effect."""
        if self._address is None:
            return []
        routing = route(self.config.queues(), answers, one_redis=False)
        for warning in routing.warnings:
            log.warning("%s", warning)
        if added := self._subqueues.new_among(routing.queues):
            await check_access(self._broker, self._subscriber, self._address, added, self._fallbacks)
        stored = {answer.queue.name: answer.deployment.redis_storage for answer in answers}
        self._parents = {name: replace(parent, store_results=stored[name]) for name, parent in self._parents.items()}
        self._subqueues.change(routing.queues, lambda: self._loops.serve(self.config, self._routes()))
        self._changed()
        return await restart_needs(self.config, self._address, answers, self.reread)

    async def _drain(self, processor: Processor, *, processor_alive: bool) -> None:
        processor.hold()
        self._become("draining")
        await self._waiter.stop()
        if processor_alive:
            drain = asyncio.create_task(processor.drain(self.config.worker.shutdown_timeout))
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not drain.done():
                drain.cancel()
                await processor.put_back()
        await asyncio.gather(*(loop.stop() for loop in self._loops.background))

    async def _leave(self) -> None:
        """Remove this worker from Redis, close all connections."""
        await self._announcer.stop()
        await self._clients.close()
        self._loop = None
        self.status = "stopped"
        self.on_change()

    # Told from outside.

    def pause(self, *, paused: bool = True) -> bool:
        """Take no more tasks but stay up, or take them again. Returns whether it does: not before it runs."""
        if self._processor is None or self.status == "bootstrapping" or self._stop_requested.is_set():
            return False
        self._processor.hold(draining=paused)
        self._become("draining" if paused else "running")
        return True

    def redeploy(self) -> bool:
        """Go over to new code if there is some, as the status tells. Returns whether it does: not before it runs."""
        if self._rollout and self.status in {"running", "draining"} and not self._stop_requested.is_set():
            self._rollout.redeploy()
            return True
        log.warning("there is nothing to redeploy: the worker is %s", self.status)
        return False

    # Reports.

    def _become(self, status: str) -> None:
        self.status = status
        self._changed()

    def _changed(self) -> None:
        self._announcer.nudge()
        self.on_change()

    def describe(self) -> Status:
        """What the worker tells about itself on its host; see ``reporting.status``."""
        heartbeat, progress = self._announcer.heartbeat, self._rollout.progress if self._rollout else None
        loops = (*self._announcer.loops, *((*self._loops.all, self._waiter) if self._processor else ()))
        redis = redis_status(self._address, heartbeat, self._fallbacks.texts, loops, shown=self._clock.shown)
        config = self.config.path
        return describe_worker(self._state(), self.identity, progress, redis, clock=self._clock, config=config)

    def hung(self) -> list[str]:
        """The names of the loops that do not move any more. Waiting for Redis to come back is moving."""
        loops = [self._announcer.heartbeat, self._processor, self._processor and self._loops.leases]
        return [loop.name for loop in loops if loop is not None and loop.hung]

    def _state(self, metrics: str = "{}") -> WorkerState:
        return WorkerState(
            status=self.status,
            concurrency=self.config.worker.concurrency,
            queues={served.name: served.priority for served in self._subqueues.served},
            strict_priority=self.config.worker.strict_priority,
            health={runner.name: runner.health for runner in self._runners()},
            metrics=metrics,
            running=self._processor.running if self._processor else (),
            **({"set_aside": self._processor.set_aside} if self._processor else {}),
            outcomes=self._processor.counts if self._processor else {},
            clock_offset=self._announcer.clock_offset,
        )


def _exception(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
