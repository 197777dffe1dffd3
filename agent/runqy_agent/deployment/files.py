"""The few operations on files that must be whole or not at all, and the lock of a deployment directory."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator
    from pathlib import Path

_TEMPORARY = ".tmp-"
_ROOM = "make room, or set deployment.dir (and TMPDIR, where packages are unpacked) to another disk"
_ADVICE = {
    "no space left on device": f"the disk is full: {_ROOM}",
    "disk quota exceeded": f"the quota of this user is used up: {_ROOM}",
    "read-only file system": "the file system is read-only: set deployment.dir (and TMPDIR) to one that can be written",
}
_LOCK_POLL = 0.05
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


def temporary_sibling(path: Path) -> Path:
    """A name next to ``path`` that nothing has, and that ``remove_leftovers`` knows."""
    return path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")


def generation(name: str) -> int:
    """Which one of several that stand for the same thing a name means: ``abc`` is 0, ``abc.2`` is 2."""
    number = name.partition(".")[2]
    return int(number) if number.isdecimal() else 0


def free_name(base: str, taken: Collection[str]) -> str:
    """``base``, or with the next number if that or a later one is taken."""
    return f"{base}.{max(map(generation, taken)) + 1}" if taken else base


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it is there whole, on the disk, or not at all."""
    temporary = temporary_sibling(path)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def swap_symlink(link: Path, target: str) -> None:
    """Let ``link`` point at ``target`` (relative to it), with no moment in which there is no link."""
    if link.is_dir() and not link.is_symlink():
        remove_tree(link)  # somebody has put it there: a link never replaces a directory
    temporary = temporary_sibling(link)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory. It vanishes under its name first, so that nobody ever finds half of it."""
    doomed = temporary_sibling(path)
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
        _remove(doomed)


def _remove(directory: Path) -> None:
    """Remove a directory, also where its author has made parts of it read-only."""
    try:
        shutil.rmtree(directory)
    except PermissionError:
        for path, _, _ in os.walk(directory):
            os.chmod(path, 0o700)  # noqa: PTH101 - os.walk gives strings
        shutil.rmtree(directory)


def remove_leftovers(directory: Path) -> None:
    """Remove what an interrupted deployment left in ``directory``. Only under the lock."""
    if not directory.is_dir():
        return
    for leftover in directory.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            _remove(leftover)
        else:
            leftover.unlink(missing_ok=True)


def flush(directory: Path) -> None:
    """Bring the file system of ``directory`` to the disk, so that what is renamed afterwards is whole after a crash.

    Uses Linux's ``syncfs``, since fsync of each of ten thousand files takes minutes. Where there is none, nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            syncfs(descriptor)
        finally:
            os.close(descriptor)


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file ``path`` against all other tasks and processes; the event loop goes on while waiting.

    The kernel releases it when the process ends, however it ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` if nobody else does. Yields whether it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def advice_on_output(text: str) -> str:
    """What to do about a command whose output says that the disk is full or cannot be written; else empty."""
    lower = text.lower()
    return "".join(f"; {advice}" for words, advice in _ADVICE.items() if words in lower)


def advice_on_space(directory: Path, needed: int) -> str:
    """What to do about a command that failed in ``directory`` if fewer than ``needed`` bytes are free; else empty."""
    free = shutil.disk_usage(directory).free
    return f"; only {free // 1024} KiB of disk space are free in {directory}: {_ROOM}" if free < needed else ""


def explain(error: OSError, root: Path) -> DeploymentError:
    """An error of the file system as one that says what to do about it."""
    path = error.filename or root
    if error.errno in _FULL:
        advice = f"the disk is full: make room, or set deployment.dir to another disk than that of {root}"
    elif error.errno == errno.EROFS:
        advice = f"the file system is read-only: set deployment.dir (now {root}) to one that can be written"
    elif error.errno in _DENIED:
        advice = f"the user {os.geteuid()} of this service must own {root}"
    else:
        advice = f"look at the file system of {root}"
    return DeploymentError(f"{path}: {error.strerror or error}; {advice}")
