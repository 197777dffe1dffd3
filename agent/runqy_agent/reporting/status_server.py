"""The local status endpoint: ``/status``, ``/health``, ``/metrics`` and ``/logs`` over HTTP, to read only."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from runqy_agent.config.address import is_loopback, parse_address
from runqy_agent.config.settings import StatusSettings
from runqy_agent.errors import ConfigError
from runqy_agent.health import judge
from runqy_agent.reporting import prometheus

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.reporting.output import Output
    from runqy_agent.reporting.status import Status

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 32
"""At once. Whoever opens more is cut off: the worker needs its file descriptors for itself."""
SOCKET_MODE = 0o660
_JSON = "application/json"
_WORDS = 3  # of a request line
_NUMBER = re.compile(r"[0-9]{1,15}")


class StatusServer:
    """Answers as long as the worker lives, from before its start to after its drain."""

    def __init__(self, listen: str, status: Callable[[], Status], output: Output | None = None) -> None:
        """Make one; ``start`` opens it.

        Args:
            listen: ``host:port``, the path of a unix socket, or "" for none.
            status: gives what is told.
            output: what the processes have printed.
        """
        self._listen = listen
        self._path = listen.removeprefix("unix:") if listen.startswith(("/", "unix:")) else ""
        self._status = status
        self._output = output
        self._server: asyncio.Server | None = None
        self._file: tuple[int, int] | None = None
        self._connections = 0

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            ConfigError: the address cannot be had. The default address is given up with a warning instead: two workers
                may be on one host without anybody having thought of it.
        """
        if not self._listen:
            return
        try:
            self._server = await (self._start_unix() if self._path else self._start_tcp())
        except OSError as error:
            reason = f"status.listen: cannot listen on {self._listen} ({error.strerror or error})"
            if self._listen != StatusSettings().listen:
                raise ConfigError(f"{reason}; set another address, or an empty one to do without") from None
            log.warning("%s; there is no status endpoint, set another address for one", reason)

    async def _start_tcp(self) -> asyncio.Server:
        host, port = parse_address(self._listen)
        if not is_loopback(host):
            log.warning("status.listen: everybody who reaches %s can read this worker's status", self._listen)
        return await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)

    async def _start_unix(self) -> asyncio.Server:
        listener = _bind(Path(self._path))
        self._file = _identity(Path(self._path))
        return await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_HEAD_BYTES)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is None:
            return
        self._server.close()
        if self._file is not None:
            _remove(Path(self._path), self._file)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer."""
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
                writer.write(self._answer(head))
                await asyncio.wait_for(writer.drain(), REQUEST_SECONDS)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, OSError):
            pass  # whoever that was, it was not a request
        finally:
            self._connections -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != _WORDS or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, _JSON, b'{"error": "this speaks HTTP/1.1"}')
        method, (path, _, query) = words[0], words[1].partition("?")
        if method not in {"GET", "HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _JSON, b'{"error": "only GET and HEAD"}')
        try:
            code, kind, body = self._page(path, query)
        except Exception:
            log.exception("the status cannot be told")
            code, kind, body = HTTPStatus.INTERNAL_SERVER_ERROR, _JSON, b'{"error": "see the log of the worker"}'
        return _response(code, kind, body, head_only=method == "HEAD")

    def _page(self, path: str, query: str) -> tuple[HTTPStatus, str, bytes]:
        if path not in {"/status", "/health", "/metrics", "/logs"}:
            return HTTPStatus.NOT_FOUND, _JSON, b'{"error": "there are /status, /health, /metrics and /logs"}'
        status = self._status()
        if path == "/logs":
            return self._lines(status["worker_id"], dict(parse_qsl(query)))
        if path == "/metrics":
            return HTTPStatus.OK, prometheus.CONTENT_TYPE, prometheus.metrics(status)
        if path == "/status":
            return HTTPStatus.OK, _JSON, json.dumps(status).encode()
        verdict = judge(status, now=status["now"])
        body = {"state": verdict.state, "reason": verdict.reason, "restart": verdict.restart}
        code = HTTPStatus.OK if verdict.well else HTTPStatus.SERVICE_UNAVAILABLE
        return code, _JSON, json.dumps(body).encode()

    def _lines(self, worker_id: str, wanted: dict[str, str]) -> tuple[HTTPStatus, str, bytes]:
        numbers = {name: wanted.get(name, default) for name, default in (("lines", "100"), ("after", "0"))}
        if not all(_NUMBER.fullmatch(text) for text in numbers.values()):
            return HTTPStatus.BAD_REQUEST, _JSON, b'{"error": "lines and after are whole numbers"}'
        count, after = int(numbers["lines"]), int(numbers["after"])
        lines = self._output.newest(count, after, wanted.get("queue", "")) if self._output else []
        return HTTPStatus.OK, _JSON, json.dumps({"worker_id": worker_id, "lines": lines}).encode()


def _response(code: HTTPStatus, kind: str, body: bytes, *, head_only: bool = False) -> bytes:
    head = f"HTTP/1.1 {code.value} {code.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    if code is HTTPStatus.METHOD_NOT_ALLOWED:
        head += "Allow: GET, HEAD\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + (b"" if head_only else body)


def _bind(path: Path) -> socket.socket:
    """Open a socket file; one that a dead worker has left is replaced, one that somebody serves is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket() and not _somebody_answers(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
    except OSError:
        listener.close()
        raise
    return listener


def _remove(path: Path, file: tuple[int, int]) -> None:
    if _identity(path) == file:  # not the socket of somebody who came after us
        path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        file = path.lstat()
    except OSError:
        return None
    return file.st_dev, file.st_ino


def _somebody_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # one that hangs, or that is not for us, is there too
        return True
