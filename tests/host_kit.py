"""What stands on a worker's host beside it: the commands, and somebody in systemd's place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

RUN = [sys.executable, "-m", "runqy_agent"]


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    return subprocess.run(
        [*RUN, *arguments], capture_output=True, text=True, timeout=60, check=False, env=bare | (environment or {})
    )


def asked(*arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(command(*arguments, "--json").stdout)
    return answer


class Manager:
    """Stands where systemd would: listens for notifications.

    It does so all the time, in a thread: the kernel keeps only ten messages that nobody has read.

    Attributes:
        heard: every line so far.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._listen, name="manager")
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096).decode():
            self.heard.extend(message.splitlines())

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
