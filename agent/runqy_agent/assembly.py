"""From what the server said to the parts of a worker: runners, routes and the rules for each queue."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.broker.flat import DEFAULT_MAX_RETRY, FlatDefaults
from runqy_agent.broker.settle import Policy
from runqy_agent.broker.watch import Watch
from runqy_agent.errors import ConfigError
from runqy_agent.loops.canceller import Canceller
from runqy_agent.loops.deadlines import Deadlines
from runqy_agent.loops.forwarder import Forwarder
from runqy_agent.loops.janitor import Janitor
from runqy_agent.loops.leases import Leases
from runqy_agent.loops.master_watch import MasterWatch
from runqy_agent.loops.processor import Processor
from runqy_agent.loops.recoverer import Recoverer
from runqy_agent.loops.route import Route
from runqy_agent.loops.selection import StrictPriority, WeightedShares
from runqy_agent.loops.waiter import WAKEUP_SECONDS, Waiter
from runqy_agent.registration import ServedQueue, register, route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client, Clients
    from runqy_agent.broker.fallbacks import Fallbacks
    from runqy_agent.clock import Clock
    from runqy_agent.config import Config
    from runqy_agent.loops.listener import Listener
    from runqy_agent.loops.loop import Loop
    from runqy_agent.loops.selection import Selector
    from runqy_agent.process.runner import Runner
    from runqy_agent.registration import Registration
    from runqy_agent.retry_delays import RetryDelay

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """A parent queue: who runs the tasks of its sub-queues, and whether their results are stored."""

    runner: Runner
    store_results: bool = True


@dataclass(frozen=True)
class Loops:
    """The loops of a worker that need its routes.

    Attributes:
        processor: the hot path.
        leases: must go on until the last task is written.
        background: the others, stopped once running tasks have ended.
        forwarder, janitor, recoverer: of those, the ones that go through the sub-queues.
    """

    processor: Processor
    leases: Leases
    background: tuple[Loop, ...]
    forwarder: Forwarder
    janitor: Janitor
    recoverer: Recoverer

    @property
    def all(self) -> tuple[Loop, ...]:
        """Every one of them."""
        return (*self.background, self.leases, self.processor)

    def serve(self, config: Config, routes: Sequence[Route]) -> None:
        """Serve these sub-queues from now on."""
        self.processor.serve(routes, _selector(config, routes))
        self.forwarder.queues = self.janitor.queues = [route.queue for route in routes]
        self.recoverer.policies = {route.queue: route.policy for route in routes}
        for loop in (self.forwarder, self.janitor, self.recoverer):
            loop.nudge()  # what is new may have waited for long


def queues_without_server(config: Config, queues: Mapping[str, int]) -> list[ServedQueue]:
    """The sub-queues of a worker that has no server to ask.

    Args:
        config: names them, where ``queues`` is empty.
        queues: sub-queue to priority.

    Raises:
        ConfigError: neither names any.
    """
    found = queues or dict.fromkeys(config.queues(), 1)
    if not found:
        raise ConfigError("worker.queues: required without a server; name the queues to serve")
    return [ServedQueue(name, priority, "") for name, priority in found.items()]


async def register_and_route(config: Config) -> tuple[list[Registration], list[ServedQueue]]:
    """Ask the server, and decide which sub-queues to serve.

    Raises:
        RegistrationError: it refuses, cannot be reached, or has nothing to serve.
    """
    registrations = await register(config.server, config.bootstrap, config.queues())
    routing = route(config.queues(), registrations)
    for warning in routing.warnings:
        log.warning("%s", warning)
    return registrations, routing.queues


def make_routes(
    config: Config,
    served: Sequence[tuple[ServedQueue, Listener]],
    parents: Mapping[str, Parent],
    retry_delay: RetryDelay,
) -> list[Route]:
    """One route for each sub-queue.

    Args:
        config: the settings.
        served: the sub-queues, each with its listener.
        parents: by name.
        retry_delay: the rule for the delay of retries.
    """
    settings = config.worker
    routes = []
    for queue, listener in served:
        parent = parents[queue.parent]
        policy = Policy(
            max_retry=config.retry.max_retry,
            ttl_completed=int(settings.ttl_completed),
            ttl_archived=int(settings.ttl_archived),
            store_results=parent.store_results,
            retry_delay=retry_delay,
            late_stamps=_has_late_stamps(config),
        )
        route = Route(queue.name, queue.priority, parent.runner, policy, listener=listener)
        route.active_timeout, route.pending_timeout = settings.active_timeout, settings.pending_timeout
        routes.append(route)
    return routes


def make_loops(
    config: Config,
    broker: Broker,
    subscriber: Client | None,
    clock: Clock,
    routes: Sequence[Route],
    *,
    clients: Clients,
) -> Loops:
    """The loops that serve these routes.

    Args:
        config: the settings.
        broker: Redis.
        subscriber: a client whose ``pubsub`` works, one of ``clients``; None where nothing can be subscribed to.
        clock: where times come from.
        routes: the sub-queues.
        clients: the connections of the worker.
    """
    names = [route.queue for route in routes]
    broker.late_stamps = _has_late_stamps(config)
    processor = Processor(broker, clock, routes, config.worker.concurrency, _selector(config, routes))
    forwarder, janitor = Forwarder(broker, names), Janitor(broker, names, int(config.worker.ttl_archived))
    recoverer = Recoverer(broker, clock, {route.queue: route.policy for route in routes})
    background: tuple[Loop, ...] = (
        Deadlines(clock, processor),
        forwarder,
        recoverer,
        janitor,
        processor.task_log,
    )
    if subscriber is not None:
        background += (Canceller(subscriber, processor),)
    if clients.watches_sentinels():
        background += (MasterWatch(clients.follow_master),)
    return Loops(processor, Leases(broker, clock, processor), background, forwarder, janitor, recoverer)


def _selector(config: Config, routes: Sequence[Route]) -> Selector:
    priorities = [(route.queue, route.priority) for route in routes]
    return StrictPriority(priorities) if config.worker.strict_priority else WeightedShares(priorities)


def make_waiter(
    broker: Broker,
    clients: Clients,
    address: RedisAddress,
    who: str,
    fallbacks: Fallbacks,
) -> Waiter:
    """What waits for tasks of sub-queues; it has none at first.

    Args:
        broker: of the worker.
        clients: makes the connections.
        address: of Redis.
        who: tells this worker from all others.
        fallbacks: says, and learns, what the worker has to do without.
    """
    blocking = clients.open(address, reply_timeout=2 * WAKEUP_SECONDS, connections=1)
    return Waiter(
        broker.layout,
        broker.client,
        open_tracker=lambda on_change: clients.open_tracker(address, on_change),
        watch=Watch(broker, blocking, who) if fallbacks.shares_watch else None,
        fallbacks=fallbacks,
    )


def _has_late_stamps(config: Config) -> bool:
    """Whether a runqy server writes to the hashes of tasks; in the flat layout they are the tasks themselves."""
    return bool(config.server.url) and config.redis.layout != "flat"


def flat_defaults(config: Config) -> FlatDefaults | None:
    """What the flat layout needs to know of the settings; None where asynq's layout is served."""
    if config.redis.layout != "flat":
        return None
    ceiling = config.retry.max_retry
    return FlatDefaults(DEFAULT_MAX_RETRY if ceiling is None else ceiling, int(config.worker.ttl_completed))
