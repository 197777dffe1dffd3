"""Processes that the agent has not started but is the parent of: it collects them, and ends them when it stops."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress

import psutil

from runqy_agent import spawning

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks for ended orphans."""
END_SECONDS = 2.0
"""How long it is waited for what was killed."""


class Orphans:
    """Those of this process: of the host's PID 1, or of whoever has made itself what orphans are given to.

    Collecting an exit code takes it away from whoever waits for it. So only what was not started here is collected, and
    only when it was there, ended, at the look before: what is started and not yet noted has been waited for by then.
    """

    def __init__(self) -> None:
        self._children_before = set(_children())
        self._ended_before: set[int] = set()

    async def collect(self) -> None:
        """Collect what has ended, again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Collect what had ended at the last look and is nobody's."""
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return  # as always when there is none: one system call
        except ChildProcessError:
            return
        ended = {child.pid for child in self._strangers() if _has_ended(child)}
        for pid in ended & self._ended_before:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._ended_before = ended

    def end_all(self) -> None:
        """Kill and collect all there are, with all that they have started."""
        strangers = self._strangers()
        found = [*strangers, *(each for child in strangers for each in _descendants(child))]
        running = [process for process in found if not _has_ended(process)]
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        if running:
            log.info("killed %d processes that ended ones had left behind", len(running))
        psutil.wait_procs(found, END_SECONDS)

    def _strangers(self) -> list[psutil.Process]:
        return [
            child
            for child in _children()
            if child.pid not in spawning.own_children and child not in self._children_before
        ]


def _children() -> list[psutil.Process]:
    try:
        return psutil.Process().children()
    except psutil.Error:
        return []


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
