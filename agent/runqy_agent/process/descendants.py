"""Finding what was started and left behind, also where it has left the process group (a daemon) or lost its agent."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_MARK = "SUPERVISED_PROCESS_ID"
_ORIGIN = "SUPERVISED_BY"
_PROC = Path("/proc")
_ROUNDS = 5
"""Looks for marked processes: one that was just starting another is found with it in the next."""
_GONE_SECONDS = 5.0
"""How long it is waited for what was killed to be gone: until then it has its memory and its GPU."""


class Mark:
    """A variable in the environment of a process, which whatever it starts inherits. It holds no secret.

    A process group can be left by anybody with ``setsid``; the mark stays. A program that gives its children another
    environment escapes: those end with the agent, whose children they become.

    Attributes:
        environment: what is to be set for the process.
    """

    def __init__(self) -> None:
        value = secrets.token_hex(8)
        self.environment = {_MARK: value}
        self._entry = f"{_MARK}={value}".encode()

    def kill_bearers(self) -> None:
        """Kill every process that bears the mark, from a thread: looking through all processes takes a while."""
        try:
            asyncio.get_running_loop().run_in_executor(None, self._kill_bearers)
        except RuntimeError:  # no thread can be started
            self._kill_bearers()

    def _kill_bearers(self) -> None:
        for pid in _kill(lambda entries: self._entry in entries):
            log.info("killed process %d, which an ended process had left behind", pid)


class Origin:
    """This agent, in the environment of all that it starts: a later one finds there what this one has left behind.

    A mark names the deployment directory, and the agent by pid, start time and PID namespace: a pid alone is soon
    somebody else's, and processes of another container have pids of their own.
    """

    def __init__(self, deployments: Path) -> None:
        digest = hashlib.sha256(os.fsencode(deployments.resolve())).hexdigest()[:16]
        place = f"{digest}-{_namespace(os.getpid())}-"
        self._place = f"{_ORIGIN}={place}".encode()
        self.environment = {_ORIGIN: f"{place}{os.getpid()}-{_started_at(os.getpid())}"}

    def end_leftovers(self) -> list[int]:
        """Kill what agents of this directory have left behind that run no more, and wait until it is gone.

        Returns:
            The pids.
        """
        ended = list(_kill(self._is_left_behind))
        for pid in ended:
            log.warning("killed process %d, which an agent of this deployment directory had left behind", pid)
        deadline = time.monotonic() + _GONE_SECONDS
        while any(map(_runs, ended)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended

    def _is_left_behind(self, entries: list[bytes]) -> bool:
        for entry in entries:
            if entry.startswith(self._place):
                pid, _, started_at = entry[len(self._place) :].decode("ascii", "replace").partition("-")
                return pid.isdecimal() and _started_at(int(pid)) != started_at
        return False


def _kill(chosen: Callable[[list[bytes]], bool]) -> Iterator[int]:
    """Kill the processes of this user, for root of all, whose environment is chosen; yields their pids."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = [pid for pid in _own_processes() if pid not in killed and _kill_if(pid, chosen)]
        yield from found
        killed.update(found)
        if not found:
            return


def _own_processes() -> list[int]:
    users, namespace = {os.geteuid()}, _namespace(os.getpid())
    pids = [int(entry.name) for entry in os.scandir(_PROC) if entry.name.isdigit()]
    found = []
    for pid in pids:
        with suppress(OSError):  # it has just ended
            ours = users == {0} or (_PROC / str(pid)).stat().st_uid in users
            if ours and pid != os.getpid() and _namespace(pid) == namespace:
                found.append(pid)
    return found


def _kill_if(pid: int, chosen: Callable[[list[bytes]], bool]) -> bool:
    """Kill a process if its environment is chosen. It is held meanwhile: its pid cannot become somebody else's."""
    try:
        with _held(pid) as kill:
            if chosen((_PROC / str(pid) / "environ").read_bytes().split(b"\0")):
                kill()
                return True
    except OSError:  # it has just ended, or is not ours after all
        return False
    return False


@contextmanager
def _held(pid: int) -> Iterator[Callable[[], None]]:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if isinstance(error, ProcessLookupError):
            raise
        yield lambda: os.kill(pid, signal.SIGKILL)  # a kernel older than 5.3, or no descriptor left
        return
    try:
        yield lambda: signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def _namespace(pid: int) -> int:
    return (_PROC / str(pid) / "ns" / "pid").stat().st_ino


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` behind the name, which may hold anything; none if there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _started_at(pid: int) -> str:
    """When a process was started, in ticks since the host was; "" if it does not run."""
    return _stat(pid)[19] if _runs(pid) else ""


def _runs(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])
