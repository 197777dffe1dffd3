"""redis-py's client of Redis Cluster, made to fit the loops: no retries of its own, and errors they know.

What redis-py leaves open, and is closed here (seen in 6.0 and 8.1):
- its errors about the cluster as a whole are no RedisErrors, some trouble shows as an IndexError or AttributeError;
- without retries a failed pipeline leaves its map of the cluster as it is, so it would ask a dead node for ever;
- it asks one certain node for the reply of ``COMMAND`` (200 kB), and cannot start while that node is down;
- it forgets the configured nodes once it knows others, whose addresses may all change;
- trouble with one node closes the connections to all, and closing it while it waits to read the map closes none.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, cast

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runqy_agent.broker.steering import QUIET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis._parsers import AsyncCommandsParser

    from runqy_agent.broker.address import RedisAddress

_BEYOND_REDIS_ERROR = (RedisClusterException, LookupError, AttributeError, RuntimeError)
"""What redis-py lets out when its map of the cluster is empty or no longer true, and uvloop for a closed connection."""
LAG_SECONDS = 2.0
"""How long the answer of one node may come after that of another."""


class ClusterClient(RedisCluster):
    """All nodes of a cluster as one client: a command goes to the node that holds its first key."""

    def __init__(self, address: RedisAddress, *, reply_timeout: float) -> None:
        """Prepare; nothing is contacted yet. Arguments as of ``open_client``."""
        self._seeds = address.seeds
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in address.seeds],
            username=address.username or None,
            password=address.password.reveal() if address.password else None,
            socket_timeout=reply_timeout,
            socket_connect_timeout=5.0,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            max_connections=1000,
            require_full_coverage=False,  # the servers have a setting for that; they refuse if need be
            encoding_errors="surrogateescape",
            ssl=address.tls,
            **QUIET,
            **address.tls_options(),
        )
        self.commands_parser = cast("AsyncCommandsParser", _FirstArgument())

    async def initialize(self, *args: Any, **options: Any) -> ClusterClient:
        """Read the map of the cluster, if that is due."""
        try:
            await super().initialize(*args, **options)
        except _BEYOND_REDIS_ERROR as error:
            for node in self._seed_nodes():
                self.nodes_manager.startup_nodes.setdefault(node.name, node)
            self.raise_known(error)
        return self

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to its node. Raises RedisError or OSError."""
        try:
            return await super().execute_command(*args, **options)
        except (RedisError, OSError) as error:
            self.learn_from(error)
            raise
        except _BEYOND_REDIS_ERROR as error:
            self.raise_known(error)

    async def execute_each(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands to their nodes at once, in no order. An error of any kind takes the place of its reply.

        A pipeline would not do: it tells nothing of the commands that were carried out when one node is away. A node
        that does not answer keeps the others waiting for ``LAG_SECONDS`` at most.
        """
        tasks = [asyncio.ensure_future(self.execute_command(*command)) for command in commands]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=LAG_SECONDS)
        finally:
            late = [task for task in tasks if task.cancel()]
        replies: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        for index, task in enumerate(tasks):
            if task in late:
                self._initialize = True
                replies[index] = RedisTimeoutError(f"no answer {LAG_SECONDS:g} s after that of another node")
        return replies

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:  # noqa: ARG002
        """Commands for several nodes; those for one node are sent in one write, in order."""
        return _Pipeline(self)  # type: ignore[abstract]  # redis-py declares an attribute that it does not use

    async def aclose(self) -> None:
        """Read the map of the cluster anew before the next command; what redis-py wants when it calls this on trouble.

        It would also close the connections to all other nodes, and fail what is under way there. ``end`` does.
        """
        self._initialize = True

    async def end(self) -> None:
        """Close all connections."""
        self._initialize = False  # otherwise there is nothing to close, it thinks
        await super().aclose()

    def learn_from(self, error: BaseException) -> None:
        """Read the map of the cluster anew before the next command, unless a node just refused this one."""
        if not isinstance(error, ResponseError) or isinstance(error, ClusterDownError):
            self._initialize = True

    def raise_known(self, error: Exception) -> NoReturn:
        """Turn an error that is no RedisError into one."""
        self._initialize = True
        known = isinstance(error, RedisClusterException)
        raise RedisConnectionError(
            str(error) if known else f"the map of the cluster is incomplete: {error!r}"
        ) from error

    def map_is_old(self) -> None:
        """Read the map of the cluster anew before the next command."""
        self._initialize = True

    async def node_of(self, key: str) -> tuple[str, int]:
        """Host and port of the master that has a key. Raises RedisError or OSError."""
        await self.initialize()
        try:
            node = self.nodes_manager.get_node_from_slot(self.keyslot(key))
        except _BEYOND_REDIS_ERROR as error:
            self.raise_known(error)
        return node.host, int(node.port)

    def known_nodes(self) -> list[tuple[str, int]]:
        """Host and port of every node known, and of the configured ones."""
        known = [(node.host, int(node.port)) for node in self.nodes_manager.nodes_cache.values()]
        return list(dict.fromkeys((*known, *self._seeds)))

    def _seed_nodes(self) -> Iterator[ClusterNode]:
        for host, port in self._seeds:
            with suppress(OSError):  # it looks up the name localhost
                yield ClusterNode(host, port, **self.connection_kwargs)


class _Pipeline(ClusterPipeline):
    def __init__(self, client: ClusterClient) -> None:
        super().__init__(client)
        self._of = client

    async def execute(self, raise_on_error: bool = True, *_: Any, **options: Any) -> list[Any]:  # noqa: FBT001, FBT002
        try:
            replies = await super().execute(raise_on_error=False, **options)
        except (RedisError, OSError) as error:
            self._of.learn_from(error)
            raise
        except _BEYOND_REDIS_ERROR as error:
            self._of.raise_known(error)
        for reply in replies:
            if isinstance(reply, BaseException):
                self._of.learn_from(reply)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, BaseException):
                    raise reply
        return replies


class _FirstArgument:
    """Where the keys of a command are. All of this package's begin with one, but for EVALSHA, which redis-py knows."""

    async def initialize(self, node: Any = None) -> None:
        """Nothing is asked."""

    async def get_keys(self, *args: Any) -> tuple[Any, ...]:
        """The first argument after the command's name."""
        return args[1:2]


class AnyNode:
    """Guides a connection to some node of the cluster, the next time to another: every node has all messages."""

    checks_role = False

    def __init__(self, address: RedisAddress, client: ClusterClient | None) -> None:
        """Args: client: knows the nodes; without one there are only the configured ones."""
        self._seeds = address.seeds
        self._client = client
        self._turn = random.randrange(len(self._seeds))

    async def locate(self) -> tuple[str, int]:
        """The next node."""
        nodes = self._client.known_nodes() if self._client else list(self._seeds)
        self._turn += 1
        return nodes[self._turn % len(nodes)]
