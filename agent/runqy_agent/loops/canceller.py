"""Ends running tasks that somebody wants cancelled: their ids are published to ``asynq:cancel``."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runqy_agent.broker import keys
from runqy_agent.broker.connection import describe
from runqy_agent.loops.loop import TROUBLE, Backoff, Loop
from runqy_agent.outcome import Failure

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

    from runqy_agent.broker.connection import Client
    from runqy_agent.broker.message import TakenTask
    from runqy_agent.loops.processor import Processor

log = logging.getLogger(__name__)

PING_SECONDS = 30.0
"""How long a silent subscription is trusted before it is asked whether it is still alive."""
PONG_SECONDS = 10.0
CANCELLED = "context canceled: the task was cancelled through asynq:cancel"


class NoAnswerError(RedisTimeoutError):
    """A silent subscription is no longer alive."""


class Canceller(Loop):
    """Subscribes, and subscribes again after a drop.

    What is published while there is no subscription is gone: Redis keeps no messages.
    """

    name: ClassVar[str] = "canceller"

    def __init__(self, client: Client, processor: Processor) -> None:
        """Args: client: one whose ``pubsub`` works; see ``Clients.open_subscriber``."""
        super().__init__()
        self._client = client
        self._processor = processor

    async def run(self) -> None:
        """Listen, whatever happens to the connection."""
        backoff = Backoff()
        while True:
            error = await self._listen(backoff)
            self.troubles.failed(error)
            log.info("the subscription to %s was lost (%s), subscribing again", keys.CANCEL, describe(error))
            await asyncio.sleep(backoff.delay())

    async def _listen(self, backoff: Backoff) -> Exception:
        try:
            async with self._client.pubsub() as subscription:
                await subscription.subscribe(keys.CANCEL)
                while True:
                    await self._next_or_again(subscription)
                    backoff.reset()
                    self.troubles.worked()
        except TROUBLE as error:
            return error

    async def _next_or_again(self, subscription: PubSub) -> None:
        """Read on. Where redis-py loses the connection it subscribes again, and raises all the same.

        To throw that subscription away would lose what has been published to it meanwhile.
        """
        before = subscription.connection
        try:
            await self._next(subscription)
        except (NoAnswerError, ResponseError):
            raise  # connected or not, nobody is there, or it was refused
        except TROUBLE as error:
            if before is None or not before.is_connected:
                raise
            log.info("the subscription to %s was lost (%s) and made again", keys.CANCEL, describe(error))

    async def _next(self, subscription: PubSub) -> None:
        found = await subscription.get_message(timeout=PING_SECONDS)
        if found is None:
            await subscription.ping()
            found = await subscription.get_message(timeout=PONG_SECONDS)
        if found is None:
            raise NoAnswerError(f"no answer to a ping for {PONG_SECONDS:g} s")
        if found["type"] == "message":
            self._cancel(found["data"].decode("utf-8", "surrogateescape"))

    def _cancel(self, task_id: str) -> None:
        def look_at(task: TakenTask) -> None:
            if task.id == task_id:
                log.info("queue %s: task %s is cancelled", task.queue, task_id)
                self._processor.cut_off(task, Failure(CANCELLED))

        self._processor.each(self._processor.running, look_at)
