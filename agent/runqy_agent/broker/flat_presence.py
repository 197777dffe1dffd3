"""How this worker shows itself in Redis in the flat layout: a set of ids, and a record for each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from runqy_agent.broker import keys
from runqy_agent.broker.presence import WORKER_TTL, Presence

if TYPE_CHECKING:
    from runqy_agent.broker.broker import Broker
    from runqy_agent.broker.presence import Identity, WorkerState
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)

LOOK_EVERY = 12
"""Beats between two looks for ids whose record is gone: a minute."""
LOOK_AT = 100
"""How many ids, drawn at random: a fleet looks at all of them in turn, and no script runs long."""


class FlatPresence(Presence):
    """Writes and removes the records of one worker. asynq's inspector cannot read this layout, so it has no records."""

    def __init__(self, broker: Broker, clock: Clock, identity: Identity) -> None:
        super().__init__(broker, clock, identity)
        self._beats = 0

    async def beat(self, state: WorkerState) -> None:
        """Write everything anew. Raises what Redis raises."""
        now = int(self.clock.now())
        look_at = 0 if self._beats % LOOK_EVERY else LOOK_AT
        record = [value for field_and_value in self._record(state, now).items() for value in field_and_value]
        await self._broker.run_script("record", [self._worker_key], [WORKER_TTL, *record])
        args = [self.identity.worker_id, keys.WORKER_PREFIX, look_at, now + WORKER_TTL]
        gone = await self._broker.run_script("enroll", [keys.WORKERS], args)
        self._beats += 1
        if gone:
            log.info("removed %d ids from %s whose workers are gone", len(gone), keys.WORKERS)

    async def clear(self) -> None:
        """Remove every record of this worker. Raises what Redis raises."""
        client = self._broker.client
        await client.delete(self._worker_key, self._output_key)
        try:
            await client.srem(keys.WORKERS, self.identity.worker_id)
        except ResponseError:  # another program keeps a sorted set there
            await client.zrem(keys.WORKERS, self.identity.worker_id)
