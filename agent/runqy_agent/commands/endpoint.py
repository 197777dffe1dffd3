"""Asks a running worker for its status."""

from __future__ import annotations

import http.client
import json
import re
import socket
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from runqy_agent.config.address import parse_address
from runqy_agent.errors import ConfigError, RunqyAgentError

ANSWER_SECONDS = 5.0
_ADDRESSES = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,/:\[\]]+):(\d+)")

Status = dict[str, Any]
"""See ``reporting.status``."""
Output = dict[str, Any]
"""``worker_id`` and ``lines``; see ``reporting.output``."""


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
        """Make one; nothing is asked yet.

        Args:
            address: ``status.listen`` of the worker: ``host:port`` or the path of a unix socket.

        Raises:
            ConfigError: it is neither.
        """
        self.address = address
        self._path = address.removeprefix("unix:") if address.startswith(("/", "unix:")) else ""
        if not self._path:
            try:
                self._host, self._port = parse_address(address)
            except ValueError as error:
                raise ConfigError(f"the address of the worker's status: {error}, or the path of a socket") from None

    def status(self) -> Status | None:
        """What the worker says of itself; None if it does not answer within a few seconds.

        Raises:
            RunqyAgentError: it may not be asked, or somebody else answers.
        """
        return self._get("/status", {"worker_id", "processes"})

    def output(self, lines: int, after: int = 0, queue: str = "") -> Output | None:
        """What its processes have printed; None if it does not answer.

        Args:
            lines: how many lines, the newest.
            after: only those with a larger number.
            queue: only those of this parent queue.

        Raises:
            RunqyAgentError: it may not be asked, or somebody else answers, or a worker that is older than this.
        """
        wanted = urlencode({"lines": lines, "after": after, "queue": queue})
        return self._get(f"/logs?{wanted}", {"worker_id", "lines"})

    def _get(self, page: str, names: set[str]) -> dict[str, Any] | None:
        connection = self._connection()
        try:
            connection.request("GET", page)
            response = connection.getresponse()
            code, body = response.status, response.read()
        except PermissionError:
            raise RunqyAgentError(
                f"{self.address} may not be asked: permission denied; run this as root, as the worker's user or in its "
                "group"
            ) from None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return self._read(code, body, names) if code < HTTPStatus.INTERNAL_SERVER_ERROR else None

    def must_answer(self) -> Status:
        """``status``, and RunqyAgentError if there is none."""
        status = self.status()
        if status is None:
            raise self.silent()
        return status

    def silent(self) -> RunqyAgentError:
        """What to raise when there must be an answer and is none."""
        return RunqyAgentError(f"no worker answers at {self.address}; is it running, and is that its status.listen?")

    def _connection(self) -> http.client.HTTPConnection:
        if self._path:
            return _UnixConnection(self._path, ANSWER_SECONDS)
        return http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)

    def _read(self, code: int, body: bytes, names: set[str]) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if code != HTTPStatus.OK or not isinstance(answer, dict) or not names <= answer.keys():
            raise RunqyAgentError(f"whatever answers at {self.address} is not a worker's status endpoint")
        return answer


def reachable(address: str) -> bool:
    """Whether somebody accepts connections at one of the addresses ``host:port`` in a text.

    Args:
        address: of Redis as a worker tells it: a server with its database, sentinels, or nodes of a cluster.
    """
    return any(_accepts(host.strip("[]"), int(port)) for host, port in _ADDRESSES.findall(address))


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False
