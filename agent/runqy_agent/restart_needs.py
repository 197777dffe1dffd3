"""What has changed since a worker started that only a restart brings into effect. Names alone, never a value."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING

from runqy_agent.broker.connection import resolve
from runqy_agent.config.keys import KEYS
from runqy_agent.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runqy_agent.broker.connection import RedisAddress
    from runqy_agent.config import Config
    from runqy_agent.registration import Registration


async def restart_needs(
    config: Config, address: RedisAddress, answers: Sequence[Registration], reread: Callable[[], Config] | None
) -> list[str]:
    """Compare a running worker with what the server and the configuration say now.

    Args:
        config: what it was started with.
        address: of its Redis.
        answers: the server's newest, one for each parent queue.
        reread: reads the configuration again; None if that cannot change.

    Returns:
        One text for each thing that needs a restart.
    """
    needs = [need for answer in answers if (need := _other_redis(config, address, answer))]
    if reread is None:
        return needs
    try:
        changed = changed_keys(config, await asyncio.to_thread(reread))
    except ConfigError as error:
        return [*needs, f"the configuration is no longer valid: {'; '.join(error.problems)}"]
    return [*needs, f"changed settings: {', '.join(changed)}"] if changed else needs


def changed_keys(old: Config, new: Config) -> list[str]:
    """The paths of the settings in which two configurations differ."""
    return [path for path in KEYS if attrgetter(path)(old) != attrgetter(path)(new)]


def _other_redis(config: Config, address: RedisAddress, answer: Registration) -> str:
    queue = answer.queue.name
    try:
        named = resolve(answer.redis, config.redis)
    except BrokerError as error:
        return f"the server names another Redis for queue {queue}, which cannot be used: {error}"
    differing = [item.name for item in fields(address) if getattr(named, item.name) != getattr(address, item.name)]
    return f"the server names another Redis for queue {queue} (changed: {', '.join(differing)})" if differing else ""
