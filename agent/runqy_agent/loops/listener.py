"""Waits for a task on an empty queue, at the cost of one blocked connection and no polling.

A blocking move takes the id from pending to active and wakes one worker only. If this worker dies before it has claimed
the task, the id stays in active without a lease, where a recoverer adopts it: nothing is lost.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from runqy_agent.broker import keys
from runqy_agent.broker.connection import describe
from runqy_agent.loops.loop import TROUBLE, Backoff, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.broker.connection import Client

log = logging.getLogger(__name__)

BLOCK_SECONDS = 5.0
POLL_SECONDS = 0.1
"""Pause between two tries on a server that does not block (an embedded one for demos)."""
UNBLOCK_TRIES = 3
UNBLOCK_SECONDS = 0.1
"""How long a stop waits, each time, for the server to end a blocked command."""


class Listener(Loop):
    """Waits on one queue, while armed, and hands over the id that arrives.

    Attributes:
        armed: whether it is waiting; the queue is known to be empty then.
    """

    name: ClassVar[str] = "listener"

    def __init__(self, client: Client, queue: str, on_id: Callable[[str, bytes], None]) -> None:
        """Make one.

        Args:
            client: for this listener alone, with a reply timeout above the blocking time.
            queue: the sub-queue.
            on_id: called with the queue and the id that is now in its active list.
        """
        super().__init__()
        self.armed = False
        self._client = client
        self._queue = queue
        self._on_id = on_id
        self._wanted = asyncio.Event()
        self._connection_id: int | None = None
        self._stopping = False

    def arm(self) -> None:
        """Begin to wait."""
        self.armed = True
        self._wanted.set()

    async def run(self) -> None:
        """Wait whenever armed."""
        names = keys.queue_keys(self._queue)
        backoff = Backoff()
        while not self._stopping:
            await self._wanted.wait()
            try:
                task_id = await self._wait_for_id(names.pending, names.active)
            except TROUBLE as error:
                log.debug("listening on queue %s: %s", self._queue, describe(error))
                self._connection_id = None
                await asyncio.sleep(backoff.delay())
                continue
            backoff.reset()
            if task_id is not None:
                self.armed = False
                self._wanted.clear()
                self._on_id(self._queue, task_id)

    async def _wait_for_id(self, pending: str, active: str) -> bytes | None:
        if self._connection_id is None:
            self._connection_id = await self._client.client_id()
            if self._stopping:
                return None
        started = asyncio.get_running_loop().time()
        task_id: bytes | None = await self._client.execute_command(
            "BLMOVE", pending, active, "RIGHT", "LEFT", BLOCK_SECONDS
        )
        took = asyncio.get_running_loop().time() - started
        if task_id is None and took < BLOCK_SECONDS / 2 and not self._stopping:
            await asyncio.sleep(POLL_SECONDS)
        return task_id

    async def shut(self, control: Client) -> None:
        """Stop waiting without losing an id that is just arriving: the server ends the blocked command.

        Args:
            control: another client, to send the request through.
        """
        self._stopping = True
        task = self.task
        if task is None:
            return
        for _ in range(UNBLOCK_TRIES):
            if task.done() or not self.armed or self._connection_id is None:
                break
            try:
                await control.execute_command("CLIENT", "UNBLOCK", self._connection_id)
            except TROUBLE as error:
                log.debug("listening on queue %s cannot be ended: %s", self._queue, describe(error))
            await asyncio.wait([task], timeout=UNBLOCK_SECONDS)
        await self.stop()
