"""Takes care of tasks whose worker has gone away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import ResponseError

from runqy_agent.broker.broker import LEASE_SECONDS
from runqy_agent.broker.exchange import Exchange
from runqy_agent.broker.existing import queues_with
from runqy_agent.broker.settle import LEASE_EXPIRED
from runqy_agent.loops.loop import PeriodicLoop, for_each
from runqy_agent.outcome import Failure, Outcome, Unstarted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.settle import Policy
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)

INTERVAL = 60.0
GRACE = 30.0
"""Seconds a lease must be over before its task is taken from its worker (asynq's value)."""

UNSETTLED = LEASE_SECONDS + GRACE
"""Seconds for which nothing is recovered after Redis' clock was set."""


class Recoverer(PeriodicLoop):
    """Finds leases that ended, and ids that never had one, at start and then every minute.

    Attributes:
        policies: the rules for the tasks of each sub-queue; may be replaced at any time.
    """

    name: ClassVar[str] = "recoverer"

    def __init__(
        self, broker: Broker, clock: Clock, policies: Mapping[str, Policy], interval: float = INTERVAL
    ) -> None:
        """Make one.

        Args:
            broker: Redis.
            clock: where times come from.
            policies: the rules for the tasks of each sub-queue to look after.
            interval: seconds between rounds.
        """
        super().__init__(interval)
        self._broker = broker
        self._clock = clock
        self.policies = policies

    async def round(self) -> None:
        """All queues once."""
        policies = self.policies
        held = await queues_with(self._broker, policies, "active", "lease")
        await for_each(held, lambda queue: self._look_after(queue, policies[queue]))

    async def _look_after(self, queue: str, policy: Policy) -> None:
        adopted = await self._broker.adopt(queue)
        if adopted:
            log.warning("queue %s: %d active tasks had no lease and were given one", queue, len(adopted))
            asyncio.get_running_loop().call_later(GRACE + 1, self.nudge)
        if self._clock.monotonic() < self._clock.set_at + UNSETTLED:
            return  # leases by the old clock look as if they had ended; whoever holds them is about to renew them
        await self._recover(queue, policy)

    async def _recover(self, queue: str, policy: Policy) -> None:
        while True:
            expired = await self._broker.expired(queue, self._clock.now() - GRACE)
            if not expired:
                return
            exchange = Exchange(queue, recovering=True)
            for found in expired:
                outcome: Outcome = Failure(LEASE_EXPIRED) if found.started else Unstarted()
                if found.task.malformed:
                    outcome = Failure(found.task.malformed, retry=False)
                exchange.finished.append(policy.settle_safely(found.task, outcome, self._clock.now_ns())[0])
            (answer,) = await self._broker.exchange([exchange])
            if answer.error:
                raise answer.error
            for settled, done in zip(exchange.finished, answer.held, strict=True):
                if done:
                    log.warning("queue %s: task %s lost its worker: %s", queue, settled.task.id, settled.step)
            if not any(answer.held):
                if answer.refused:
                    raise ResponseError(next(iter(answer.refused.values())))
                return
