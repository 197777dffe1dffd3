"""Where a worker's status endpoint is if nobody says so: known to the worker, and to the commands on its host."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AUTO = "auto"
"""``status.listen``: a socket file in the runtime directory, or ``FALLBACK`` where there is none."""
FALLBACK = "127.0.0.1:9641"
SYSTEM = Path("/run/runqy-agent")
USERS = Path("/run/user")
_OURS = "runqy-agent"
_LONGEST_SOCKET = 107
_LONGEST_NAME = 40


def runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory for files of a running worker, which may not be there yet; None for none.

    It is systemd's (``RUNTIME_DIRECTORY``), else one below ``XDG_RUNTIME_DIR``, else ``/run/runqy-agent`` for root and
    whoever may write there.
    """
    if given := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    if (session := _session(environ)) is not None:
        return session / _OURS
    if os.geteuid() == 0 and SYSTEM.parent.is_dir():
        return SYSTEM
    return SYSTEM if SYSTEM.is_dir() and os.access(SYSTEM, os.W_OK) else None


def _session(environ: Mapping[str, str]) -> Path | None:
    """The user's own directory, if it is there and is his."""
    path = Path(environ.get("XDG_RUNTIME_DIR", ""))
    try:
        return path if path.is_absolute() and path.stat().st_uid == os.geteuid() else None
    except OSError:
        return None


def socket_name(config: str | os.PathLike[str] | None, queues: Sequence[str]) -> str:
    """Return the name of a worker's socket file: workers with other settings have another.

    Args:
        config: its configuration file; None or "" for none.
        queues: what it serves, which makes the name where there is no file.
    """
    if config:
        digest = hashlib.sha256(os.fsencode(os.path.realpath(config))).hexdigest()[:8]
        return f"{_plain(Path(config).stem)}-{digest}.sock"
    return f"{_plain('+'.join(queues)) or 'worker'}.sock"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]", "-", text, flags=re.ASCII).lstrip(".")[:_LONGEST_NAME]


def default_address(environ: Mapping[str, str], name: str) -> str:
    """Return where a worker listens that nobody has told where.

    Args:
        environ: of the worker.
        name: ``socket_name``.
    """
    directory = runtime_directory(environ)
    path = str(directory / name) if directory else ""
    return path if path and len(os.fsencode(path)) <= _LONGEST_SOCKET else FALLBACK


def known_directories(environ: Mapping[str, str]) -> list[Path]:
    """Return the directories in which workers of this host keep their files, as far as this user can see them."""
    places = [Path(given) for given in environ.get("RUNTIME_DIRECTORY", "").split(":") if given]
    session = _session(environ) or USERS / str(os.geteuid())
    places += [session / _OURS, SYSTEM, *_below(SYSTEM, "*")]
    if os.geteuid() == 0:
        places += _below(USERS, f"*/{_OURS}")
    return list(dict.fromkeys(places))


def _below(directory: Path, pattern: str) -> Iterable[Path]:
    return sorted(path for path in directory.glob(pattern) if path.is_dir())


def known_sockets(environ: Mapping[str, str], name: str = "*.sock") -> list[Path]:
    """Return the socket files of that name in the known directories.

    Args:
        environ: the environment.
        name: one, or a pattern.
    """
    return [
        path for directory in known_directories(environ) for path in sorted(directory.glob(name)) if path.is_socket()
    ]


def token_name(port: int) -> str:
    """Return the name of the file that holds the token of an endpoint at a TCP port."""
    return f"status-{port}.token"
