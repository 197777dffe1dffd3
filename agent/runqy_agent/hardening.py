"""Keeps the agent's secrets from other processes of the same user, the task authors' among them."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """Make this process one whose memory and environment only root may read, and that leaves no core dump.

    The kernel then gives ``/proc/PID/environ``, ``mem`` and ``fd`` to root, and refuses ptrace. Programs that it starts
    are readable again. Where this cannot be had, a warning says so.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        log.warning("other processes of this user can read the agent's memory: PR_SET_DUMPABLE failed (%s)", reason)
