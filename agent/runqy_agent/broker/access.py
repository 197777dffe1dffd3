"""At start: does Redis have, and may this user do, all that the worker will do? Better said then than after a task.

All sub-queues are tried together, so the number of round trips does not depend on how many there are.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, ClusterCrossSlotError, RedisError, ResponseError

from runqy_agent.broker import keys
from runqy_agent.broker.check import ACL_HINT, MISSING, explained, is_missing
from runqy_agent.broker.cluster import ClusterClient
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.fallbacks import Fallbacks

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
WATCHING = ("EXISTS", "HDEL a", "HGET a", "HMGET a", "HSET a b", "LLEN", "PEXPIRE 1", "RPUSH a", "SET a")
"""Those of the scripts by which the workers of a fleet share the watch over their queues."""

_MOMENT = 0.01
"""Seconds. Redis 6.2 counts in milliseconds and rounds down, and 0.001 may become 0 there, which is for ever."""
_ANSWER_SECONDS = 5.0
_PROBE = "runqy-agent-probe"
_REFUSALS = ("executing the script can't", "ACL failure in script")
"""How a script tells that a command or a key was not permitted: Redis 6.2 and 7.0, later ones."""
_NOTHING = "return 0"
"""A script."""


async def check_access(
    broker: Broker, subscriber: Client, address: RedisAddress, queues: Iterable[str], fallbacks: Fallbacks
) -> None:
    """Try every command and every kind of key, and leave nothing behind. Other trouble is for the loops to deal with.

    Args:
        broker: for everything else.
        subscriber: a client whose ``pubsub`` works.
        address: of Redis.
        queues: the sub-queues.
        fallbacks: learns what the worker can do without, and has to.

    Raises:
        BrokerError: something is not there or not permitted, and all of it is named; or Redis cannot be reached.
    """
    try:
        refused, no_sharing, no_subscribing = await asyncio.gather(
            _refused_to_work(broker, queues), _refused_to_share(broker), _refused_to_subscribe(subscriber)
        )
    except (RedisError, OSError, asyncio.TimeoutError) as error:
        if not address.is_cluster:
            raise explained(error, address) from error
        log.debug("permissions could not be checked, a node of the cluster is away: %s", error)
        return
    for name, reason in no_subscribing:
        if MISSING.search(reason):
            fallbacks.cancels = False
            fallbacks.use(f"{name} ({reason})", "running tasks cannot be cancelled")
        else:
            refused.append((f"{name} to {keys.CANCEL}", reason))
    if refused:
        named = "; ".join(dict.fromkeys(f"{what} ({reason})" for what, reason in refused))
        raise BrokerError(f"Redis at {address} does not permit {named}; {ACL_HINT}")
    if no_sharing:
        named = "; ".join(f"{what} ({reason})" for what, reason in no_sharing)
        fallbacks.shares_watch = False
        fallbacks.use(named, "every idle worker of a fleet looks at each new task, instead of two for each queue")


Refusals = list[tuple[str, str]]
"""What is refused, and in which words."""


async def _refused_to_work(broker: Broker, queues: Iterable[str]) -> Refusals:
    commands = IN_FLAT_SCRIPTS if broker.layout == "flat" else IN_SCRIPTS
    probes = [keys.queue_keys(queue, broker.layout).probe for queue in queues]
    replies = await broker.try_scripts([("probe", [probe], list(commands)) for probe in probes])
    refused = [refusal for probe, reply in zip(probes, replies, strict=True) for refusal in _of_script(probe, reply)]
    records = _flat_records() if broker.layout == "flat" else _records()
    evals = [("EVAL", _NOTHING, 1, probe) for probe in probes[:1]]  # for scripts that Redis has forgotten
    looks: list[tuple[Any, ...]] = [("EXISTS", probe) for probe in probes]
    if not isinstance(broker.client, ClusterClient):  # two slots at once: a node of a cluster refuses that
        looks.append(("EXISTS", keys.SERVERS, keys.WORKERS, *probes[:1]))
    return refused + await _refused(broker, [*evals, *records, *looks])


async def _refused_to_share(broker: Broker) -> Refusals:
    """On a key of its own: it holds something when a command waits for that, so the reply comes at once."""
    slots, wakeup = keys.watch_slots(broker.layout), keys.wakeup(f"{_PROBE}-{uuid.uuid4().hex}", broker.layout)
    (reply,) = await broker.try_scripts([("probe", [wakeup], list(WATCHING))])
    refused = _of_script(wakeup, reply)
    if refused:
        return refused
    commands = [("EXISTS", slots), ("RPUSH", wakeup, "a"), ("BLPOP", wakeup, _MOMENT), ("DEL", wakeup)]
    return [each for each in await _refused(broker, commands) if not each[0].startswith("RPUSH")]


def _of_script(probe: str, reply: Any) -> Refusals:
    if isinstance(reply, Exception):
        return _refusals(f"the running of scripts by EVALSHA on {probe}", reply)
    pairs = zip(reply[::2], reply[1::2], strict=True)
    problems = [(command.decode(), error.decode("utf-8", "replace")) for command, error in pairs]
    return [
        (f"{command} on {probe} in a script", error)
        for command, error in problems
        if any(refusal in error for refusal in _REFUSALS) or is_missing(ResponseError(error))
    ]


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


async def _refused_to_subscribe(subscriber: Client) -> Refusals:
    try:
        async with subscriber.pubsub() as subscription:
            await subscription.subscribe(keys.CANCEL)
            await subscription.get_message(timeout=_ANSWER_SECONDS)
    except ResponseError as error:
        return _refusals("SUBSCRIBE", error)
    return []


async def _refused(broker: Broker, commands: Sequence[tuple[Any, ...]]) -> Refusals:
    async with broker.client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies = await pipeline.execute(raise_on_error=False)
    return [
        refusal
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, Exception)
        for refusal in _refusals(f"{command[0]} on {command[3 if command[1] == _NOTHING else 1]}", reply)
    ]


def _refusals(what: str, error: Exception) -> Refusals:
    """One if the error is a refusal that lasts, none if it may pass."""
    if is_missing(error):
        return [(what, str(error))]
    if isinstance(error, (AskError, ClusterCrossSlotError)):  # MOVED is an AskError, too
        return [(what, f"{error}: it is a node of a Redis Cluster, set redis.cluster: true")]
    log.debug("%s could not be tried: %s", what, error)
    return []
