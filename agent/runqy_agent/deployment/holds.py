"""Holding a release: as long as any process on the host does, nobody removes it or its environment."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_LOCK = ".in-use"


class Hold:
    """A shared lock on a release. It ends when it is closed, with its last owner, or with the process."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go. A second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def make_holdable(release: Path) -> None:
    """Make the lock file of a new release, so that holding it writes nothing."""
    (release / _LOCK).touch()


def hold(release: Path) -> Hold | None:
    """Hold a release; None if it is gone or being removed.

    Where its lock file cannot be opened (a read-only file system), nobody can remove it either, and nothing is locked.
    """
    path = release / _LOCK
    try:
        # For reading: a file open for writing would keep an operator from making the file system read-only.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    except FileNotFoundError:
        return None
    except OSError as refused:
        log.debug("the release %s is used without a lock: %s", release.name, refused)
        return Hold(None)
    held = Hold(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # It may have been removed between opening and locking.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return held
    except OSError:
        pass
    held.close()
    return None


@contextlib.contextmanager
def unless_held(release: Path) -> Iterator[bool]:
    """Keep others from beginning to hold a release. Yields whether nobody holds it, so that it may be removed."""
    try:
        descriptor = os.open(release / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except NotADirectoryError:  # a stray file
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
