"""Talks to systemd as ``sd_notify(3)`` describes: a datagram to the socket that it names. Elsewhere nothing happens."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from runqy_agent.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

SEND_SECONDS = 0.5
"""How long to wait for a manager that is behind with reading: longer than it ever is, shorter than anybody notices."""
MAX_WORDS = 300


class Systemd:
    """The service manager, if there is one."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Find it by ``NOTIFY_SOCKET``, and what it expects by ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._ready = False
        self._stopping = False
        self._reloading = False
        self._words = ""
        self._undelivered: dict[str, Callable[[], None]] = {}
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(usec) / 1e6 if for_us and usec.isdigit() and self._address else 0.0

    def tell(self, status: str, words: str) -> None:
        """Tell how the worker is. The first time that it runs, it is ready.

        Args:
            status: as in the heartbeat.
            words: the same for people; shown in one line.
        """
        # What a process printed may be among the words. A line of it would be a command to systemd.
        words = escape(" ".join(words.split()))[:MAX_WORDS]
        ready = self._ready or status == "running"
        lines = [] if words == self._words else [f"STATUS={words}"]
        lines += ["READY=1"] if ready and not self._ready else []
        delivered = not lines or self._send(*lines)
        if delivered:
            self._ready, self._words = ready, words
        self._try_again("status", None if delivered else partial(self.tell, status, words))

    def reloading(self, *, now: bool) -> None:
        """Tell that the worker goes over to new code, or that this is over. Nothing is sent if that is known."""
        if now == self._reloading or not self._ready or self._stopping:
            self._try_again("reloading", None)
            return
        # systemd tells this message from an older one by the time.
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        delivered = self._send(*(["RELOADING=1", f"MONOTONIC_USEC={usec}"] if now else ["READY=1"]))
        if delivered:
            self._reloading = now
        self._try_again("reloading", None if delivered else partial(self.reloading, now=now))

    def stopping(self) -> None:
        """The worker has been told to stop, or ends by itself."""
        if not self._stopping:
            self._stopping = self._send("STOPPING=1")

    async def feed_watchdog(self, hung: Callable[[], list[str]]) -> None:
        """Feed it twice as often as it asks, as long as nothing hangs. That this runs shows that the event loop turns.

        What systemd has not heard so far is told again: without ``READY=1`` it would end the worker.

        Args:
            hung: the names of the parts that do not move.
        """
        while self.watchdog_seconds:
            if parts := hung():
                log.critical("%s: hung; systemd will restart the worker", ", ".join(parts))
            else:
                self._send("WATCHDOG=1")
                for tell in list(self._undelivered.values()):
                    tell()
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _try_again(self, what: str, tell: Callable[[], None] | None) -> None:
        """Note what is to be told again; None: it was delivered, or is out of date."""
        if tell is None or not self._address:
            self._undelivered.pop(what, None)
        else:
            self._undelivered[what] = tell

    def _send(self, *lines: str) -> bool:
        """Send one message. Returns whether it has arrived."""
        if not self._address:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(SEND_SECONDS)
            try:
                connection.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
            except OSError as error:
                log.warning("systemd does not listen at NOTIFY_SOCKET: %s", error.strerror or error)
                return False
        return True
