"""Socket files of the status endpoint: made, replaced where a dead worker has left one, and removed in the end."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runqy_agent.peers import somebody_listens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET_MODE = 0o660
BACKLOG = 100


def listen_at(path: Path) -> socket.socket:
    """Listen at a socket file; one that a dead worker has left is replaced, one that somebody serves is not.

    Raises:
        OSError: it cannot be had.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _alone_in(path.parent):
        if path.is_socket() and not somebody_listens(path):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(SOCKET_MODE)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    return listener


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """While it lasts, no other worker replaces a socket there: two could find the same one dead."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove(path: Path, file: tuple[int, int]) -> None:
    """Remove the socket that was made, but not that of somebody who came after us."""
    if identity(path) == file:
        path.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of what is there, None for nothing."""
    try:
        file = path.lstat()
    except OSError:
        return None
    return file.st_dev, file.st_ino
