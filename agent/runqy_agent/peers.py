"""Who is at the other end of a unix socket, and whether the path of one leads where it should."""

from __future__ import annotations

import socket
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
ROOT = 0
_PROBE_SECONDS = 1.0


class Peer(NamedTuple):
    """A process, as the kernel knows it: who connected, or who listened."""

    pid: int
    uid: int


def peer_of(fd: int) -> Peer:
    """Return who is at the other end of a connected unix socket (``SO_PEERCRED``)."""
    with socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


def squatter_could_own(path: Path, uid: int) -> str:
    """Return the directory in which anybody could have made what is at the path; "" if there is none.

    Args:
        path: of a socket.
        uid: of the user who listens there; he and root may own the directories that lead to it.
    """
    for directory in path.resolve().parents:
        found = directory.stat()
        if found.st_mode & stat.S_IWOTH or found.st_uid not in {ROOT, uid}:
            return str(directory)
    return ""


def somebody_listens(path: Path) -> bool:
    """Tell whether a process listens at a socket file: one that hangs, or that is not for us, does too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
        return True
