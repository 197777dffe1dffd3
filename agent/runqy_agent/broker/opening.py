"""From an address to a broker that is known to work."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from runqy_agent.broker.access import check_access
from runqy_agent.broker.broker import Broker
from runqy_agent.broker.channel import Channel
from runqy_agent.broker.check import check_server
from runqy_agent.broker.lookup import LookupKeys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.connection import Clients
    from runqy_agent.clock import Clock


async def open_broker(clients: Clients, address: RedisAddress, clock: Clock, queues: Iterable[str]) -> Broker:
    """Connect, and make sure that Redis is fit and lets us do what these sub-queues need.

    Raises:
        BrokerError: with what was tried, what came of it, and what to do.
    """
    client = clients.open(address)
    await check_server(client, address)
    if address.is_cluster:  # an exchange goes to several nodes, and look-up keys are elsewhere than their tasks
        broker = Broker(client, clock, lookup_keys=False, afterwards=LookupKeys(client))
    else:
        broker = Broker(client, clock, channel=Channel(clients.open(address)))
    await check_access(broker, address, queues)
    with suppress(RedisError, OSError, asyncio.TimeoutError):  # they are loaded when they are missed, too
        await broker.load_scripts()
    return broker
