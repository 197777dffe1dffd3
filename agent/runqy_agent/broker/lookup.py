"""The keys by which the runqy server finds a task and its result by id alone, on a cluster.

They carry no hash tag, so they are in other slots than their task and no script can write them in the same step. There
they are written right after it: a reader that comes in between, or after a crash in between, finds the result in the
task's hash.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from runqy_agent.broker import keys
from runqy_agent.broker.connection import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.exchange import Exchange, Exchanged
    from runqy_agent.broker.settle import Settled

log = logging.getLogger(__name__)

WRITE_SECONDS = 2.0
"""How long an exchange waits for these keys; its tasks are safe already."""


class LookupKeys:
    """Writes what ``done.lua``, ``complete.lua`` and ``archive.lua`` write themselves where all keys share a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def write(self, requests: Sequence[Exchange], answers: Sequence[Exchanged]) -> None:
        """Write for the tasks that an exchange has finished. Trouble is logged: the tasks themselves are safe."""
        commands = [
            command
            for request, answer in zip(requests, answers, strict=True)
            for settled, held in zip(request.finished, answer.held, strict=False)  # nothing is held after an error
            if held
            for command in _commands(settled)
        ]
        await self._try(commands)

    async def delete(self, task_ids: Iterable[str]) -> None:
        """Remove the look-up keys of tasks that are gone. Trouble is logged."""
        await self._try([("DEL", keys.LOOKUP_PREFIX + task_id) for task_id in task_ids])

    async def _try(self, commands: list[tuple[Any, ...]]) -> None:
        if not commands:
            return
        try:
            await asyncio.wait_for(self._send(commands), WRITE_SECONDS)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            log.warning("look-up keys of finished tasks could not all be written or removed: %s", describe(error))

    async def _send(self, commands: list[tuple[Any, ...]]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            await pipeline.execute()


def _commands(settled: Settled) -> Iterator[tuple[Any, ...]]:
    """Of the five values of a step the fourth is the result, the fifth how many seconds it is kept (0: for ever)."""
    lookup = keys.LOOKUP_PREFIX + settled.task.id
    result, ttl = settled.values[3], settled.values[4]
    if settled.step == "done":
        late = settled.values[2]
        yield ("DEL", lookup)
        if late:
            yield ("HSET", lookup, "queue", settled.task.queue)
            yield ("EXPIRE", lookup, late)
    elif settled.step == "complete":
        if result:
            yield ("SET", keys.RESULT_PREFIX + settled.task.id, result, *(("EX", ttl) if ttl else ()))
        if ttl:
            yield ("EXPIRE", lookup, ttl)
    elif settled.step == "archive" and ttl:
        yield ("EXPIRE", lookup, ttl)
