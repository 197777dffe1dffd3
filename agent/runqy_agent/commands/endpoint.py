"""Asks a running worker for its status."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

ANSWER_SECONDS = 5.0

Status = dict[str, Any]
"""See ``reporting.status``."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Endpoint:
    """The status endpoint of one worker."""

    def __init__(self, address: str) -> None:
        """Args: address: ``status.listen`` of the worker: ``host:port`` or the path of a unix socket."""
        self.address = address

    def status(self) -> Status | None:
        """What the worker says of itself; None if it does not answer within a few seconds."""
        path = self.address.removeprefix("unix:")
        connection: http.client.HTTPConnection
        if path.startswith("/"):
            connection = _UnixConnection(path, ANSWER_SECONDS)
        else:
            connection = http.client.HTTPConnection(self.address, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", "/status")
            answer = json.load(connection.getresponse())
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer if isinstance(answer, dict) else None


def reachable(address: str) -> bool:
    """Whether somebody accepts connections at one of the addresses ``host:port``, with commas between them."""
    return any(_accepts(each.strip()) for each in address.split(","))


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False
