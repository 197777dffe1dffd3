"""Starting programs so that they end with the agent, have no descriptor of it, and find limits as it found them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

log = logging.getLogger(__name__)

T = TypeVar("T")

UNKNOWN_CODE = 255
"""The exit code of a process whose end somebody else has collected, as asyncio reports it."""

SHORTAGE_SECONDS = 1.0
"""Between two tries to start a program for which the agent lacks descriptors, processes or memory."""
LOOK_SECONDS = 0.1
"""Between two looks whether a process has ended, where the kernel does not tell."""
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})

_PR_SET_PDEATHSIG = 1
_SHIM = (
    f"import ctypes,os,sys;ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG},9,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);os.execvp(sys.argv[2],sys.argv[2:])"
)

own_children: set[int] = set()
"""Processes that the agent has started and whose end it collects itself."""

_file_limit: list[tuple[int, int]] = []
_origin: dict[str, str] = {}


def children_keep_file_limit(soft: int, hard: int) -> None:
    """Give whatever is started from now on this limit of open files, whatever the agent's own is.

    Many programs do something for each descriptor that they might have.
    """
    _file_limit[:] = [(soft, hard)]


def children_name_origin(environment: Mapping[str, str]) -> None:
    """Set these variables for whatever is started from now on, see ``Origin``."""
    _origin.update(environment)


class Started(NamedTuple):
    """A process, and the agent's ends of the pipes to it. They do not block."""

    pid: int
    stdin: int
    stdout: int
    stderr: int


def ending_with_the_agent(argv: Sequence[str]) -> list[str]:
    """The command line that has a program killed when the agent dies, however it dies.

    The kernel does it (``PR_SET_PDEATHSIG``): when the thread that has started the program ends, it gets SIGKILL. What
    it has started itself does not, and a setuid program throws the setting off; both are found when an agent starts
    anew. A small program sets it and becomes the program that was asked for: code that runs between ``fork`` and
    ``exec`` in a process with threads may deadlock, and keeps the event loop waiting while memory is copied.
    """
    return [*(_setpriv() or (sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()))), *argv]


@cache
def _setpriv() -> tuple[str, ...]:
    """The program and its arguments; empty where there is none that can do it, such as that of busybox."""
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if setpriv is not None:
        words = (setpriv, "--pdeathsig", "KILL", "--")
        with suppress(OSError, subprocess.TimeoutExpired):  # the option is there since util-linux 2.33
            if subprocess.run([*words, "true"], check=False, capture_output=True, timeout=5.0).returncode == 0:
                return words
    return ()


def check_program(argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
    """Check that there is a program to start: ``exec`` itself reports to nobody here.

    Raises:
        OSError: why it cannot be started.
    """
    name = argv[0]
    directories = [""] if os.sep in name else os.get_exec_path(environment)
    found = [place for directory in directories if (place := cwd / directory / name).exists()]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if not any(place.is_file() and os.access(place, os.X_OK) for place in found):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


async def spawn(argv: Sequence[str], cwd: Path, environment: Mapping[str, str], what: str) -> Started:
    """Start a program in a session of its own, with pipes to it. Where the agent lacks what that takes, it waits.

    Args:
        argv: program and arguments.
        cwd: its working directory.
        environment: the whole of it.
        what: whose process it is, for the log.

    Raises:
        OSError: it cannot be started.
        ValueError: a NUL byte in an argument or a variable.
    """
    check_program(argv, cwd, environment)

    async def start() -> Started:
        return _spawn(argv, cwd, environment)

    return await wait_out_shortages(start, what)


async def wait_out_shortages(start: Callable[[], Awaitable[T]], what: str) -> T:
    """Start something, again and again until the agent has what that takes.

    Args:
        start: tries once.
        what: is started, for the log.

    Raises:
        OSError: it cannot be started for another reason than a shortage.
    """
    told = False
    while True:
        try:
            return await start()
        except OSError as error:
            if not is_shortage(error):
                raise
            if not told:
                log.warning("%s cannot be started yet: %s; trying again. %s", what, error.strerror, advice(error))
                told = True
        await asyncio.sleep(SHORTAGE_SECONDS)


def is_shortage(error: OSError) -> bool:
    """Whether the agent lacks something: no fault of what it tried to start, and another time it may work."""
    return error.errno in _SHORTAGES


def advice(error: OSError) -> str:
    """What to do about a shortage."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return f"Raise the limit of open files, which is {limit} (LimitNOFILE= of the unit, ulimit -n)"
    if error.errno == errno.EAGAIN:
        return "Raise the limit of processes (TasksMax= and LimitNPROC= of the unit, ulimit -u)"
    return "The host is out of memory"


def _spawn(argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Started:
    descriptors: list[int] = []
    try:
        for _ in range(3):
            descriptors += os.pipe()
        theirs_in, our_in, our_out, theirs_out, our_err, theirs_err = descriptors
        for ours in (our_in, our_out, our_err):
            os.set_blocking(ours, False)
        process = subprocess.Popen(
            ending_with_the_agent(argv),
            stdin=theirs_in,
            stdout=theirs_out,
            stderr=theirs_err,
            cwd=cwd,
            env={**environment, **_origin},
            start_new_session=True,
        )
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    for theirs in (theirs_in, theirs_out, theirs_err):
        os.close(theirs)  # else the agent would keep the pipes of an ended process open itself
    process.returncode = 0  # its end is collected by ``watch_end``, not when this object goes
    _began(process.pid)
    return Started(process.pid, our_in, our_out, our_err)


async def create(argv: Sequence[str], *, environment: Mapping[str, str], **options: Any) -> asyncio.subprocess.Process:
    """Start a program as ``asyncio.create_subprocess_exec`` does, with what holds for all that the agent starts.

    Args:
        argv: program and arguments.
        environment: the whole of it.
        options: of ``asyncio.create_subprocess_exec``.

    Raises:
        OSError: it cannot be started.
    """
    check_program(argv, Path(options.get("cwd") or "."), environment)
    command = ending_with_the_agent(argv)
    process = await asyncio.create_subprocess_exec(*command, env={**environment, **_origin}, **options)
    _began(process.pid)
    waiting = asyncio.ensure_future(process.wait())
    waiting.add_done_callback(lambda _: own_children.discard(process.pid))
    return process


def _began(pid: int) -> None:
    own_children.add(pid)
    for limit in _file_limit:
        with suppress(OSError):  # it has ended already, or runs as somebody else
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


def watch_end(pid: int, on_end: Callable[[int], None]) -> None:
    """Call ``on_end`` with the return code (negative: the signal) once the process has ended."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        code = _collect(pid)
        if code is None:
            loop.call_later(LOOK_SECONDS, look)
        else:
            on_end(code)

    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # a kernel older than 5.3, or no descriptor left
        loop.call_soon(look)
        return

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        look()

    loop.add_reader(descriptor, ended)


def _collect(pid: int) -> int | None:
    """The return code, collected from the kernel; None if the process has not ended."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        log.warning("the exit code of process %d was collected by somebody else; it counts as %d", pid, UNKNOWN_CODE)
        own_children.discard(pid)
        return UNKNOWN_CODE
    if not ended:
        return None
    own_children.discard(pid)
    return os.waitstatus_to_exitcode(status)
