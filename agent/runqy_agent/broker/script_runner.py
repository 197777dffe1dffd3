"""Runs the scripts, several in one round trip."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import NoScriptError, ResponseError

from runqy_agent.broker import keys, scripts
from runqy_agent.broker.cluster import ClusterClient

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.channel import Channel
    from runqy_agent.broker.connection import Client

Step = tuple[str, list[str], list[Any]]
"""A script's name, its KEYS and its ARGV."""


class ScriptRunner:
    """Runs the package's scripts by their digests, and makes those known that Redis does not know.

    Attributes:
        client: an open client.
        layout: how the keys are laid out.
    """

    layout: ClassVar[keys.Layout] = "asynq"

    def __init__(self, client: Client) -> None:
        self.client = client

    async def load_scripts(self) -> None:
        """Make all scripts known to Redis, so that the first tasks need not."""
        texts = [script.text for script in scripts.all_scripts(self.layout)]
        if isinstance(self.client, ClusterClient):  # it loads no scripts in a pipeline
            await asyncio.gather(*(self.client.script_load(text) for text in texts))
        else:
            await self._execute([("SCRIPT LOAD", text) for text in texts])

    async def run_script(self, name: str, script_keys: Iterable[str], args: Iterable[Any]) -> Any:
        """Run one of the package's scripts; for the parts of the broker that live in other modules."""
        return await self._run(name, list(script_keys), list(args))

    async def run_scripts(self, *steps: Step) -> None:
        """Run several, in one round trip. Raises the first refusal; the others have been carried out all the same."""
        for reply in await self._run_all(steps):
            if isinstance(reply, Exception):
                raise reply

    async def try_scripts(self, steps: Sequence[Step]) -> list[Any]:
        """Run several, in one round trip. A refusal takes the place of its reply."""
        return await self._run_all(steps)

    async def _run(self, name: str, script_keys: list[str], args: list[Any]) -> Any:
        (reply,) = await self._run_all([(name, script_keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _run_all(self, steps: Sequence[Step], channel: Channel | None = None) -> list[Any]:
        found = [scripts.load(name, self.layout) for name, _, _ in steps]
        packed = [
            ("EVALSHA", script.sha, len(script_keys), *script_keys, *args)
            for script, (_, script_keys, args) in zip(found, steps, strict=True)
        ]
        replies = await (channel.call(packed) if channel and not channel.busy else self._execute(packed))
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            # EVAL goes to the server that has said so, and it knows the script from then on.
            again = await self._execute([("EVAL", found[index].text, *packed[index][2:]) for index in missing])
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies

    async def _execute(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip. A refusal is returned in its place, not raised.

        On a cluster also other trouble, with one of several nodes, is returned, not raised.
        """
        if isinstance(self.client, ClusterClient):
            return await self.client.execute_each(commands)
        if len(commands) == 1:
            try:
                return [await self.client.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        async with self.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))
