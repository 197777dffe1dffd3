"""From an address to a broker that is known to work."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from runqy_agent.broker import keys
from runqy_agent.broker.access import check_access
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.channel import Channel
from runqy_agent.broker.check import check_server
from runqy_agent.broker.connection import describe
from runqy_agent.broker.flat import FlatBroker
from runqy_agent.broker.flat_presence import FlatPresence
from runqy_agent.broker.lookup import LookupKeys
from runqy_agent.broker.presence import Identity, Presence
from runqy_agent.broker.redis_time import SAMPLES
from runqy_agent.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.connection import Clients
    from runqy_agent.broker.flat import FlatDefaults
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)


async def open_broker(
    clients: Clients, address: RedisAddress, clock: Clock, queues: Iterable[str], flat: FlatDefaults | None = None
) -> Broker:
    """Connect, and make sure that Redis is fit and lets us do what these sub-queues need.

    Args:
        clients: makes the connections.
        address: where to.
        clock: where times come from.
        queues: the sub-queues.
        flat: the flat layout, and what is taken for tasks that do not say; None for asynq's layout.

    Raises:
        BrokerError: with what was tried, what came of it, and what to do.
        ConfigError: the flat layout on a cluster.
    """
    if flat is not None and address.is_cluster:
        raise ConfigError("redis.layout: flat is not for Redis Cluster, where the keys of a queue must share a slot")
    client = clients.open(address)
    await check_server(client, address)
    broker: Broker
    if flat is not None:
        broker = FlatBroker(client, clock, flat, channel=Channel(clients.open(address)))
    elif address.is_cluster:  # an exchange goes to several nodes, and look-up keys are elsewhere than their tasks
        broker = Broker(client, clock, lookup_keys=False, afterwards=LookupKeys(client))
    else:
        broker = Broker(client, clock, channel=Channel(clients.open(address)))
    await check_access(broker, clients.open_subscriber(address), address, queues)
    await _check_layout(broker, address)
    await _learn_time(broker, address)
    with suppress(RedisError, OSError, asyncio.TimeoutError):  # they are loaded when they are missed, too
        await broker.load_scripts()
    return broker


def make_presence(broker: Broker, clock: Clock, identity: Identity) -> Presence:
    """How a worker shows itself in the layout of this broker."""
    return (FlatPresence if broker.layout == "flat" else Presence)(broker, clock, identity)


async def _learn_time(broker: Broker, address: RedisAddress) -> None:
    """No lease may be asked for before it is known what time it is for those who will read it."""
    try:
        await broker.time.learn(SAMPLES)
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        raise BrokerError(f"Redis at {address} does not tell its time: {describe(error)}") from error


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
