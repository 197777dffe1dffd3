"""The HTTP of the status endpoint: one request on each connection, bounded in size, time and number."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, cast

from runqy_agent.escaping import to_json
from runqy_agent.peers import Peer, peer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUEST_SECONDS = 5.0
"""For a request to arrive, and again for its answer to be read."""
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 64
"""At once. One more, and the oldest that has not asked anything is closed: the worker needs its file descriptors."""
ROOM_SECONDS = 0.001
"""Before that, so that what a new connection has sent already is read."""
_END_OF_HEAD = b"\r\n\r\n"
_WORDS = 3  # of a request line
_JSON = "application/json"


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        headers: by their name in lower case.
        peer: who asks over a unix socket; None over TCP.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: Peer | None


class Response(NamedTuple):
    """An answer."""

    code: HTTPStatus
    body: bytes
    kind: str = _JSON
    headers: tuple[str, ...] = ()

    def encode(self, *, head_only: bool) -> bytes:
        """As it is sent."""
        lines = [
            f"HTTP/1.1 {self.code.value} {self.code.phrase}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            *self.headers,
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else self.body)


def json_response(code: HTTPStatus, body: object) -> Response:
    """Answer with JSON."""
    return Response(code, to_json(body).encode())


def error_response(code: HTTPStatus, words: str, *headers: str) -> Response:
    """Answer with what is wrong."""
    return json_response(code, {"error": words})._replace(headers=headers)


class Connections:
    """All connections of one endpoint."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        """Make it; ``connection`` is the protocol factory of a server.

        Args:
            answer: gives the answer to a request; must not raise.
        """
        self.answer = answer
        self._open: dict[_Connection, None] = {}

    def connection(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return _Connection(self)

    def opened(self, connection: _Connection) -> None:
        """Count a connection in."""
        self._open[connection] = None
        if len(self._open) > MAX_CONNECTIONS:
            asyncio.get_running_loop().call_later(ROOM_SECONDS, self._make_room)

    def closed(self, connection: _Connection) -> None:
        """Count it out."""
        self._open.pop(connection, None)

    def close(self) -> None:
        """Close all of them; answers that are being sent are lost."""
        for connection in list(self._open):
            connection.abort()

    def _make_room(self) -> None:
        for connection in sorted(self._open, key=lambda each: each.answered)[
            : max(0, len(self._open) - MAX_CONNECTIONS)
        ]:
            connection.abort()
            self.closed(connection)


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, connections: Connections) -> None:
        self.answered = False
        self._connections = connections
        self._head = b""
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.opened(self)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, _ = self._head.partition(_END_OF_HEAD)
        if len(head) > MAX_HEAD_BYTES:
            self.abort()
        elif end:
            self.answered = True
            self._deadline.cancel()
            self._start_deadline()
            self._transport.write(self._answer(head))
            self._transport.close()  # when all of it is sent; nothing more is read

    def connection_lost(self, _error: Exception | None) -> None:
        self._deadline.cancel()
        self._connections.closed(self)

    def abort(self) -> None:
        """Close it as it is."""
        self._transport.abort()

    def _start_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.abort)

    def _answer(self, head: bytes) -> bytes:
        try:
            request = parse_head(head.decode("latin-1"), self._peer())
        except ValueError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error)).encode(head_only=False)
        return self._connections.answer(request).encode(head_only=request.method == "HEAD")

    def _peer(self) -> Peer | None:
        connection = self._transport.get_extra_info("socket")
        return peer_of(connection.fileno()) if connection.family == socket.AF_UNIX else None


def parse_head(head: str, peer: Peer | None) -> Request:
    """Take the head of a request apart.

    Raises:
        ValueError: it is not one of HTTP/1.
    """
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != _WORDS or not words[2].startswith("HTTP/1."):
        raise ValueError("this speaks HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise ValueError("a line of the head is no header")
        if name.lower() in headers and name.lower() in {"host", "authorization"}:
            raise ValueError(f"{name} is given twice")
        headers[name.lower()] = value.strip()
    path, _, query = words[1].partition("?")
    return Request(words[0], path, query, headers, peer)
