"""What stands on a worker's host beside it: the commands, and somebody in systemd's place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
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
    """Stands where systemd would: listens for notifications."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)  # noqa: FBT003 - the name of the method says what it is
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        with suppress(BlockingIOError):
            while True:
                self.heard += self.socket.recv(4096).decode().splitlines()
        return self.heard
