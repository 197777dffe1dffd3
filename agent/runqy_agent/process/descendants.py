"""Finding what a process has started and left behind, also where it has left the process group (a daemon)."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_VARIABLE = "SUPERVISED_PROCESS_ID"
_PROC = Path("/proc")


class Mark:
    """A variable in the environment of a process, which whatever it starts inherits. It holds no secret.

    A process group can be left by anybody with ``setsid``; the mark stays. A program that gives its children another
    environment escapes: those are left to the control group, when the service stops.

    Attributes:
        environment: what is to be set for the process.
    """

    def __init__(self) -> None:
        value = secrets.token_hex(8)
        self.environment = {_VARIABLE: value}
        self._entry = f"{_VARIABLE}={value}".encode()

    def kill_bearers(self) -> None:
        """Kill every process that bears the mark, from a thread: looking through all processes takes a while."""
        asyncio.get_running_loop().run_in_executor(None, self._kill_bearers)

    def _kill_bearers(self) -> None:
        for pid in self._bearers():
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            log.info("killed process %d, which an ended process had left behind", pid)

    def _bearers(self) -> Iterator[int]:
        for entry in os.scandir(_PROC):
            if not entry.name.isdigit():
                continue
            try:
                environment = (_PROC / entry.name / "environ").read_bytes()
            except OSError:  # somebody else's, or it has just ended
                continue
            if self._entry in environment.split(b"\0"):
                yield int(entry.name)
