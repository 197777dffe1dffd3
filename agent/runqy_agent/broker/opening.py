"""From an address to a broker that is known to work."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from runqy_agent.broker import keys
from runqy_agent.broker.access import check_access
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.channel import Channel
from runqy_agent.broker.check import check_server, explained
from runqy_agent.broker.flat import FlatBroker
from runqy_agent.broker.flat_presence import FlatPresence
from runqy_agent.broker.lookup import LookupKeys
from runqy_agent.broker.presence import Identity, Presence
from runqy_agent.broker.redis_time import SAMPLES
from runqy_agent.config.duration import format_duration
from runqy_agent.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.connection import Client, Clients
    from runqy_agent.broker.fallbacks import Fallbacks
    from runqy_agent.broker.flat import FlatDefaults
    from runqy_agent.clock import Clock
    from runqy_agent.config import BootstrapSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


async def open_broker(
    clients: Clients,
    address: RedisAddress,
    clock: Clock,
    bootstrap: BootstrapSettings,
    flat: FlatDefaults | None = None,
) -> Broker:
    """Connect, and make sure that Redis answers, lets us in, and is what the configuration says.

    Args:
        clients: makes the connections.
        address: where to.
        clock: where times come from.
        bootstrap: how often to try, and how long to wait between.
        flat: the flat layout, and what is taken for tasks that do not say; None for asynq's layout.

    Raises:
        BrokerError: with what was tried, what came of it, and what to do.
        ConfigError: the flat layout on a cluster.
    """
    if flat is not None and address.is_cluster:
        raise ConfigError("redis.layout: flat is not for Redis Cluster, where the keys of a queue must share a slot")
    client = clients.open(address)
    await _patiently(lambda: check_server(client, address), bootstrap)
    broker: Broker
    if flat is not None:
        broker = FlatBroker(client, clock, flat, channel=Channel(clients.open(address, connections=1)))
    elif address.is_cluster:  # an exchange goes to several nodes, and look-up keys are elsewhere than their tasks
        broker = Broker(client, clock, lookup_keys=False, afterwards=LookupKeys(client))
    else:
        broker = Broker(client, clock, channel=Channel(clients.open(address, connections=1)))
    await _check_layout(broker, address)  # before anything is written
    await _patiently(lambda: _learn_time(broker, address), bootstrap)
    return broker


async def examine(
    broker: Broker,
    subscriber: Client,
    address: RedisAddress,
    queues: Sequence[str],
    *,
    bootstrap: BootstrapSettings,
    fallbacks: Fallbacks,
) -> None:
    """Make sure that Redis has and permits what these sub-queues need, and make the scripts known to it.

    Args:
        broker: from ``open_broker``.
        subscriber: a client whose ``pubsub`` works.
        address: of Redis.
        queues: the sub-queues.
        bootstrap: how often to try, and how long to wait between.
        fallbacks: learns what the worker has to do without.

    Raises:
        BrokerError: with what was tried, what came of it, and what to do.
    """
    with suppress(RedisError, OSError, asyncio.TimeoutError):  # they are loaded when they are missed, too
        await broker.load_scripts()
    await _patiently(lambda: check_access(broker, subscriber, address, queues, fallbacks), bootstrap)


async def _patiently(step: Callable[[], Awaitable[T]], bootstrap: BootstrapSettings) -> T:
    """Take a step of the start, several times if need be. What trying again cannot change is final at once."""
    attempt = 1
    while True:
        try:
            return await step()
        except BrokerError as error:  # noqa: PERF203  # attempts are seconds apart
            if not error.retryable:
                raise
            if attempt >= bootstrap.retries:
                raise BrokerError(f"{error} (gave up after {attempt} attempts)", retryable=True) from error
            delay = bootstrap.retry_delay
            log.warning(
                "attempt %d of %d: %s; retrying in %s", attempt, bootstrap.retries, error, format_duration(delay)
            )
            await asyncio.sleep(delay)
            attempt += 1


def make_presence(broker: Broker, clock: Clock, identity: Identity) -> Presence:
    """How a worker shows itself in the layout of this broker."""
    return (FlatPresence if broker.layout == "flat" else Presence)(broker, clock, identity)


async def _learn_time(broker: Broker, address: RedisAddress) -> None:
    """No lease may be asked for before it is known what time it is for those who will read it."""
    try:
        await broker.time.learn(SAMPLES)
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        raise explained(error, address) from error


async def _check_layout(broker: Broker, address: RedisAddress) -> None:
    """The list of workers is the one key that both layouts share, with different types.

    runqy's first worker kept a sorted set there at times, beside its flat keys: that is served, too.
    """
    try:
        kind = (await broker.client.execute_command("TYPE", keys.WORKERS)).decode()
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        log.debug("the type of %s could not be found out: %s", keys.WORKERS, error)
        return
    if kind in ("none", "zset") or (kind == "set" and broker.layout == "flat"):
        if kind == "zset" and broker.layout == "flat":
            log.warning("%s is a sorted set: a program that keeps asynq's layout uses this Redis too", keys.WORKERS)
        return
    found = f"a {kind}, of which no worker knows"
    if kind == "set":
        found = "a set, as workers of the flat layout keep it: if that is how tasks are written set redis.layout: flat"
    raise BrokerError(
        f"the key {keys.WORKERS} in Redis at {address} is {found}; else use another database, or delete the key if "
        "nobody needs it any more"
    )
