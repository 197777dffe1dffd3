"""What the agent's own process inherits from whoever started it, and would pass on: put right before anything else."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys

from runqy_agent import spawning

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_STDOUT, _STDERR = 1, 2
_NAMES = ("standard input", "standard output", "standard error")
_LEFT_ALONE = frozenset(
    {
        *(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, and has its children not ignore them
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT),  # they get a handler
    }
)
_NAME_OF = {int(signum): signum.name for signum in signal.Signals}

OWN_FILES = 64
"""Descriptors that the agent itself has open, with some in reserve."""
FILES_A_PROCESS = 4
"""Descriptors for each process: three pipes, and one that tells its end."""


def open_standard_descriptors() -> list[str]:
    """Open what is closed of the descriptors 0 to 2: what is opened next would take their place and be written to.

    A closed standard error becomes a copy of standard output, so that the log has somewhere to go.

    Returns:
        What was wrong, in words for the log.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    if not closed:
        return []
    for number in closed:
        if number == _STDERR and _STDOUT not in closed:
            os.dup2(_STDOUT, _STDERR)
        else:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(opened, True)  # noqa: FBT003 - positional only
    if sys.stdout is None:
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - the same
    replaced = dict.fromkeys(closed, f"{os.devnull} is in its place")
    if _STDERR in closed and _STDOUT not in closed:
        replaced[_STDERR] = "the log goes to standard output"
    return [f"{_NAMES[number]} was closed by whoever started the agent: {by}" for number, by in replaced.items()]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def reset_signals() -> list[str]:
    """Ignore no signal and block none. With SIGCHLD ignored the kernel would keep no exit code for the agent.

    Returns:
        The names of those that were ignored or blocked.
    """
    ignored = {signum for signum in signal.valid_signals() if signal.getsignal(signum) is signal.SIG_IGN} - _LEFT_ALONE
    for signum in ignored:
        signal.signal(signum, signal.SIG_DFL)
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return [_NAME_OF.get(signum, f"signal {signum}") for signum in sorted(ignored | blocked)]


def raise_file_limit(processes: int) -> None:
    """Raise the agent's own limit of open files as far as it may; its children keep the one it was started with.

    Args:
        processes: how many it may have at once; if that needs more it is said.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        spawning.children_keep_file_limit(soft, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.debug("the limit of open files stays at %d: %s", soft, error)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = OWN_FILES + FILES_A_PROCESS * processes
    if limit != resource.RLIM_INFINITY and limit < needed:
        log.warning(
            "the limit of open files is %d, but %d processes need about %d: some may have to wait for others. "
            "Raise it (LimitNOFILE= of the unit, ulimit -n)",
            *(limit, processes, needed),
        )


def adopt_orphans() -> None:
    """Become the parent of what processes leave behind when they end, instead of the host's init.

    So it can be collected when it ends, and ended when the agent stops.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
