"""Talks to a running worker over its status endpoint: asks how it is, and asks it to act."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from runqy_agent.config.address import parse_address
from runqy_agent.config.places import FALLBACK, token_name
from runqy_agent.errors import ConfigError, RunqyAgentError
from runqy_agent.peers import ROOT, Peer, peer_of, squatter_could_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ANSWER_SECONDS = 5.0
MAX_TOKEN_BYTES = 1024
_ADDRESSES = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,/:\[\]]+):(\d+)")

Status = dict[str, Any]
"""See ``reporting.status``."""
Output = dict[str, Any]
"""``worker_id`` and ``lines``; see ``reporting.output``."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file.

    Attributes:
        peer: the process that listens there.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self.peer = Peer(0, 0)

    def connect(self) -> None:
        """Connect to the file.

        Raises:
            RunqyAgentError: somebody listens there who need not be the worker.
        """
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        self.peer = peer_of(self.sock.fileno())
        if self.peer.uid in {ROOT, os.geteuid()}:
            return
        if directory := squatter_could_own(Path(self._path), self.peer.uid):
            raise RunqyAgentError(
                f"{self._path} is not trusted: process {self.peer.pid} of user {self.peer.uid} listens there, and not "
                f"only that user can make files in {directory}; keep the socket in a directory of its own"
            )


class Endpoint:
    """The status endpoint of one worker."""

    def __init__(self, address: str, token_directories: Sequence[Path] = ()) -> None:
        """Make one; nothing is asked yet.

        Args:
            address: ``status.listen`` of the worker: ``host:port`` or the path of a unix socket.
            token_directories: where its token may be, which is asked for over TCP.

        Raises:
            ConfigError: it is neither.
        """
        self.address = address
        self._path = address.removeprefix("unix:") if address.startswith(("/", "unix:")) else ""
        self._peer_pid = 0
        self._tokens = token_directories
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
        return self._ask("GET", "/status", {"worker_id", "processes"})

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
        return self._ask("GET", f"/logs?{wanted}", {"worker_id", "lines"})

    def act(self, action: str) -> Status:
        """Have the worker ``drain``, ``resume`` or ``redeploy``. Returns at once, with its status from just before.

        Raises:
            RunqyAgentError: no worker answers, it does not do that now, or not for whoever runs this.
        """
        status = self._ask("POST", f"/{action}", {"worker_id", "processes"})
        if status is None:
            raise self.silent()
        return status

    def must_answer(self) -> Status:
        """``status``, and RunqyAgentError if there is none."""
        status = self.status()
        if status is None:
            raise self.silent()
        return status

    def process(self, status: Status) -> int:
        """The id of the worker's process: as the kernel says, or over TCP the worker.

        Args:
            status: what it has just said.
        """
        return self._peer_pid or int(status["pid"])

    def silent(self) -> RunqyAgentError:
        """What to raise when there must be an answer and is none."""
        also = ", and there is no socket file of one" if self.address == FALLBACK else ""
        words = f"no worker answers at {self.address}{also}; is it running, and is that its status.listen?"
        return RunqyAgentError(words)

    def _ask(self, method: str, page: str, names: set[str]) -> dict[str, Any] | None:
        code, body = 0, b""
        for token in self._known_tokens():
            answer = self._send(method, page, {"Authorization": f"Bearer {token}"} if token else {})
            if answer is None:
                return None
            code, body = answer
            if code != HTTPStatus.UNAUTHORIZED:
                break
        return self._read(code, body, names) if code < HTTPStatus.INTERNAL_SERVER_ERROR else None

    def _send(self, method: str, page: str, headers: dict[str, str]) -> tuple[int, bytes] | None:
        connection = self._connection()
        try:
            connection.request(method, page, headers=headers)
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
        self._peer_pid = connection.peer.pid if isinstance(connection, _UnixConnection) else 0
        return code, body

    def _connection(self) -> http.client.HTTPConnection:
        if self._path:
            return _UnixConnection(self._path, ANSWER_SECONDS)
        return http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)

    def _known_tokens(self) -> Iterable[str]:
        """None first: most questions need none, and a token is not for whoever happens to listen."""
        yield ""
        if not self._path:
            for directory in self._tokens:
                try:
                    with (directory / token_name(self._port)).open("rb") as file:
                        token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
                except (OSError, ValueError):
                    continue
                if token.isprintable():
                    yield token

    def _read(self, code: int, body: bytes, names: set[str]) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if code in {HTTPStatus.OK, HTTPStatus.ACCEPTED} and isinstance(answer, dict) and names <= answer.keys():
            return answer
        if code == HTTPStatus.CONFLICT and isinstance(answer, dict):
            raise RunqyAgentError(str(answer.get("error")))
        raise RunqyAgentError(_REFUSALS.get(code, _STRANGER).format(address=self.address))


_STRANGER = "whatever answers at {address} is not a worker's status endpoint"
_OLDER = "the worker at {address} is of a version that cannot be asked for this; signal it, as `systemctl reload` does"
_REFUSALS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: (
        "the worker at {address} wants its token, which cannot be read here; run this as root or as its user, with the "
        "worker's --config"
    ),
    HTTPStatus.FORBIDDEN: "the worker at {address} belongs to somebody else; run this as root or as its user",
    HTTPStatus.MISDIRECTED_REQUEST: "the worker at {address} does not know that name; ask it at its status.listen",
    HTTPStatus.METHOD_NOT_ALLOWED: _OLDER,
}


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
