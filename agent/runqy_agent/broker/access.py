"""At start: may this user do all that the worker will do? Better said then than after the first task."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError

from runqy_agent.broker import keys
from runqy_agent.broker.check import ACL_HINT
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client

log = logging.getLogger(__name__)

IN_SCRIPTS = (
    "DEL",
    "EXISTS",
    "EXPIRE 1",
    "EXPIREAT 1",
    "GET",
    "HDEL a",
    "HGET a",
    "HMGET a",
    "HSET a b",
    "INCRBY 1",
    "LLEN",
    "LPUSH a",
    "LRANGE 0 0",
    "LREM 0 a",
    "LTRIM 0 0",
    "PEXPIRE 1",
    "RPUSH a",
    "SET a",
    "SETEX 1 a",
    "ZADD 1 a",
    "ZCARD",
    "ZRANGE 0 0",
    "ZRANGEBYSCORE 0 0",
    "ZREM a",
    "ZSCORE a",
)
"""Every command of the scripts, with arguments that do no harm on a key of no meaning."""
IN_FLAT_SCRIPTS = (*IN_SCRIPTS, "SADD a", "SRANDMEMBER 1", "SREM a", "TYPE")

_MOMENT = 0.01
"""Seconds. Redis 6.2 counts in milliseconds and rounds down, and 0.001 may become 0 there, which is for ever."""
_ANSWER_SECONDS = 5.0
_PROBE = "runqy-agent-probe"
_REFUSALS = ("executing the script can't", "ACL failure in script")
"""How a script tells that a command or a key was not permitted: Redis 6.2 and 7.0, later ones."""


async def check_access(broker: Broker, subscriber: Client, address: RedisAddress, queues: Iterable[str]) -> None:
    """Try every command and every kind of key, and leave nothing behind. Other trouble is for the loops to deal with.

    Raises:
        BrokerError: something is not permitted; all of it is named.
    """
    refused: list[str] = []
    try:
        for queue in queues:
            names = keys.queue_keys(queue, broker.layout)
            refused += await _refused_in_scripts(broker, names)
            refused += await _refused(broker, _waiting(names.probe))
        refused += await _refused(broker, _flat_records() if broker.layout == "flat" else _records())
        refused += await _refused_to_subscribe(subscriber)
    except NoPermissionError as error:
        refused.append(f"the running of scripts ({error})")
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        log.debug("the permissions could not be checked: %s", error)
    if refused:
        raise BrokerError(f"Redis at {address} does not permit {'; '.join(dict.fromkeys(refused))}; {ACL_HINT}")


def _waiting(probe: str) -> list[tuple[Any, ...]]:
    return [("BLMOVE", probe, probe, "RIGHT", "RIGHT", _MOMENT), ("BLPOP", probe, _MOMENT)]


def _records() -> list[tuple[Any, ...]]:
    own = (keys.server(_PROBE), keys.active_workers(_PROBE), keys.worker(_PROBE), keys.worker_output(_PROBE))
    lookup = (keys.LOOKUP_PREFIX + _PROBE, keys.RESULT_PREFIX + _PROBE)
    return [
        ("ZREM", keys.SERVERS, _PROBE),
        ("ZREM", keys.WORKERS, _PROBE),
        *(("DEL", key) for key in (*own, *lookup)),
    ]


def _flat_records() -> list[tuple[Any, ...]]:
    own = (keys.worker(_PROBE), keys.worker_output(_PROBE), keys.LOOKUP_PREFIX + _PROBE, keys.RESULT_PREFIX + _PROBE)
    return [("SREM", keys.WORKERS, _PROBE), *(("DEL", key) for key in own)]


async def _refused_in_scripts(broker: Broker, names: keys.QueueKeys) -> list[str]:
    commands = IN_FLAT_SCRIPTS if broker.layout == "flat" else IN_SCRIPTS
    found = await broker.run_script("probe", [names.probe], commands)
    pairs = zip(found[::2], found[1::2], strict=True)
    problems = [(command.decode(), error.decode("utf-8", "replace")) for command, error in pairs]
    return [
        f"{command} on {names.probe} in a script ({error})"
        for command, error in problems
        if any(refusal in error for refusal in _REFUSALS)
    ]


async def _refused_to_subscribe(subscriber: Client) -> list[str]:
    try:
        async with subscriber.pubsub() as subscription:
            await subscription.subscribe(keys.CANCEL)
            await subscription.get_message(timeout=_ANSWER_SECONDS)
    except NoPermissionError as error:
        return [f"SUBSCRIBE to {keys.CANCEL} ({error})"]
    return []


async def _refused(broker: Broker, commands: list[tuple[Any, ...]]) -> list[str]:
    async with broker.client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies = await pipeline.execute(raise_on_error=False)
    return [
        f"{command[0]} on {command[1]} ({reply})"
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, NoPermissionError)
    ]
