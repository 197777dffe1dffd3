"""Trouble between a worker and Redis: a proxy that delays, cuts and loses."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from runqy_agent.broker import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from typing import Any


T = TypeVar("T")

EXCHANGES = scripts.load("exchange").sha.encode()
"""Only the exchanges of a worker hold these bytes."""
CHUNK = 65536
LONGEST_STUMP = 12
"""How much of a reply arrives at most before the connection is cut: the shortest ones are a little longer."""


@dataclass(frozen=True)
class Weather:
    """What happens to what passes through a proxy.

    Attributes:
        lost_requests: how many of the requests are not passed on; the connection is cut instead.
        lost_replies: how many of the requests are passed on and carried out, but the connection is cut in the middle of
            the reply.
        hits: only requests that hold these bytes are hit.
        resets: how many of the cuts are resets (RST); the others are orderly ends (FIN).
        request_delay, reply_delay: seconds, from and to.
    """

    lost_requests: float = 0.0
    lost_replies: float = 0.0
    hits: bytes = b""
    resets: float = 0.5
    request_delay: tuple[float, float] = (0.0, 0.0)
    reply_delay: tuple[float, float] = (0.0, 0.0)


CALM = Weather()


class FlakyProxy:
    """A proxy in front of a Redis, on a port of its own, with an event loop in a thread of its own.

    Attributes:
        weather: what happens to what passes; may be changed at any time.
        turns_away: whether new connections are reset as soon as they are made.
        connections: how many connections were made to it.
        cuts: how often which kind of harm was done: ``lost request``, ``lost reply``, ``reset``.
        chance: its source of randomness.
    """

    def __init__(self, port: int, seed: int | None = None) -> None:
        """Start it.

        Args:
            port: of the Redis, on loopback.
            seed: of its randomness; by default that in the environment variable ``FLAKY_SEED``, or a new one. It is
                printed.
        """
        self.weather = CALM
        self.turns_away = False
        self.connections = 0
        self.cuts: Counter[str] = Counter()
        if seed is None:
            seed = int(os.environ.get("FLAKY_SEED") or random.randrange(1_000_000))
        self.chance = random.Random(seed)
        self._target = port
        self._links: dict[_Link, asyncio.Task[Any] | None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="flaky proxy")
        self._thread.start()
        self.port = 0
        self._call(self._listen())
        print(f"flaky proxy on port {self.port}: seed {seed}")  # noqa: T201  # pytest shows it if the test fails

    @property
    def address(self) -> str:
        """``host:port``, for the worker."""
        return f"127.0.0.1:{self.port}"

    def swallow(self) -> None:
        """From now on nothing passes, and no connection is closed; new ones are accepted. A black hole."""
        self._do(self.passing.clear)

    def release(self) -> None:
        """Let everything pass again. What was held arrives now, as it does when a network comes back."""
        self._do(self.passing.set)

    def refuse(self) -> None:
        """Cut all connections and listen no more: new ones are refused."""
        self._do(self._close_listener)
        self._do(self._reset_all)

    def accept(self) -> None:
        """Listen again."""
        self._call(self._listen())

    def reset_all(self) -> None:
        """Reset all connections."""
        self._do(self._reset_all)

    def close(self) -> None:
        """End it."""
        self._do(self._close_listener)
        self._do(self.passing.set)
        self._do(self._reset_all)
        self._call(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the thread of the event loop.

    async def _listen(self) -> None:
        if not self.port:
            self.passing = asyncio.Event()
            self.passing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.turns_away:
            _reset(writer)
            return
        link = _Link(self, _End(reader, writer))
        self._links[link] = asyncio.current_task()
        try:
            await link.run(self._target)
        finally:
            del self._links[link]

    def _close_listener(self) -> None:
        self._server.close()

    def _reset_all(self) -> None:
        for link in self._links:
            link.cut(reset=True)

    async def _ended(self) -> None:
        await asyncio.gather(*(task for task in self._links.values() if task is not None))

    def _do(self, step: Callable[[], None]) -> None:
        async def do() -> None:
            step()

        self._call(do())

    def _call(self, step: Coroutine[Any, Any, T]) -> T:
        called: Future[T] = asyncio.run_coroutine_threadsafe(step, self._loop)
        return called.result(30)


@dataclass(frozen=True)
class _End:
    """One end of a connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Link:
    """A connection through the proxy: one to it, and one from it to Redis."""

    def __init__(self, proxy: FlakyProxy, near: _End) -> None:
        self._proxy = proxy
        self._near = near
        self._far: _End | None = None
        self._stump: int | None = None
        self._cut = False

    async def run(self, port: int) -> None:
        """Pass on what comes, both ways, until one side ends."""
        with suppress(OSError):
            await self._proxy.passing.wait()
            far = self._far = _End(*await asyncio.open_connection("127.0.0.1", port))
            if not self._cut:
                ways = (self._pass_requests(self._near, far), self._pass_replies(far, self._near))
                await asyncio.gather(*ways, return_exceptions=True)
        self.cut(reset=False)

    async def _pass_requests(self, near: _End, far: _End) -> None:
        proxy = self._proxy
        while data := await near.reader.read(CHUNK):
            weather = proxy.weather
            if weather.hits in data:
                fate = proxy.chance.random()
                if fate < weather.lost_requests:
                    self._harm("lost request", weather)
                    return
                if fate < weather.lost_requests + weather.lost_replies:
                    self._stump = proxy.chance.randrange(LONGEST_STUMP)
            await self._hold_up(weather.request_delay)
            far.writer.write(data)
            await far.writer.drain()
        far.writer.close()

    async def _pass_replies(self, far: _End, near: _End) -> None:
        while data := await far.reader.read(CHUNK):
            weather = self._proxy.weather
            await self._hold_up(weather.reply_delay)
            if self._stump is None:
                near.writer.write(data)
                await near.writer.drain()
            else:
                near.writer.write(data[: self._stump])
                self._harm("lost reply", weather)
                return
        near.writer.close()

    async def _hold_up(self, delay: tuple[float, float]) -> None:
        if delay[1]:
            await asyncio.sleep(self._proxy.chance.uniform(*delay))
        await self._proxy.passing.wait()

    def _harm(self, what: str, weather: Weather) -> None:
        self._proxy.cuts[what] += 1
        self.cut(reset=self._proxy.chance.random() < weather.resets)

    def cut(self, *, reset: bool) -> None:
        """End both connections; what is still to be sent to the worker is sent, unless it is a reset."""
        if self._cut:
            return
        self._cut = True
        if reset:
            self._proxy.cuts["reset"] += 1
            _reset(self._near.writer)
        else:
            self._near.writer.close()
        if self._far is not None:
            self._far.writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    opened: socket.socket | None = writer.get_extra_info("socket")
    if opened is not None:
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
