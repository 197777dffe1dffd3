"""Which of many keys exist, at the cost of few commands where hardly any do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy_agent.broker.cluster import ClusterClient
from runqy_agent.broker.keys import queue_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.connection import Client

GROUP = 16
"""Keys asked for with one command."""


async def existing(client: Client, keys: Sequence[str]) -> list[bool]:
    """Find out which keys exist, in two round trips at most. Raises what Redis raises.

    Returns:
        For each key whether it exists. True also for one whose node of a cluster has answered with an error: whoever
        goes on to use the key learns why.
    """
    if isinstance(client, ClusterClient):  # the keys of several slots cannot be asked for at once
        replies = await client.execute_each([("EXISTS", key) for key in keys]) if keys else []
        return [reply != 0 for reply in replies]
    groups = [keys[at : at + GROUP] for at in range(0, len(keys), GROUP)]
    counts = await _count(client, groups)
    unclear = [group for group, count in zip(groups, counts, strict=True) if 0 < count < len(group)]
    single = iter(await _count(client, [[key] for group in unclear for key in group]))
    found: list[bool] = []
    for group, count in zip(groups, counts, strict=True):
        found += [bool(next(single)) if group in unclear else count > 0 for _ in group]
    return found


async def queues_with(broker: Broker, queues: Iterable[str], *parts: str) -> list[str]:
    """Find the queues of which some part exists (``scheduled``, ``lease``…), so that the others cost next to nothing.

    Returns:
        Their names, in order. Raises what Redis raises.
    """
    wanted = [(queue, getattr(queue_keys(queue, broker.layout), part)) for queue in queues for part in parts]
    found = await existing(broker.client, [key for _, key in wanted])
    return list(dict.fromkeys(queue for (queue, _), exists in zip(wanted, found, strict=True) if exists))


async def count(client: Client, keys: Sequence[str]) -> int:
    """How many keys exist, with one command (but for a cluster). Raises what Redis raises."""
    if isinstance(client, ClusterClient):
        return sum(await existing(client, keys))
    return sum(await _count(client, [keys])) if keys else 0


async def _count(client: Client, groups: Sequence[Sequence[str]]) -> list[int]:
    if not groups:
        return []
    async with client.pipeline(transaction=False) as pipeline:
        for group in groups:
            pipeline.execute_command("EXISTS", *group)
        counts: list[int] = await pipeline.execute()
    return counts
