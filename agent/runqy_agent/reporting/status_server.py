"""The local status endpoint: what a worker says of itself over HTTP, and what it may be asked to do.

Everybody who reaches it may read ``/status``, ``/health`` and ``/metrics``. Over TCP ``/logs`` and the actions need the
token; over a unix socket, whose file says who may connect, the actions are for the worker's own user and root.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from runqy_agent.config.address import is_loopback, parse_address
from runqy_agent.config.places import token_name
from runqy_agent.errors import ConfigError
from runqy_agent.health import judge
from runqy_agent.peers import ROOT
from runqy_agent.reporting import prometheus
from runqy_agent.reporting.socket_files import identity, listen_at, remove
from runqy_agent.reporting.status_http import Connections, Request, Response, error_response, json_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runqy_agent.reporting.output import Output
    from runqy_agent.reporting.status import Status

log = logging.getLogger(__name__)

TOKEN_MODE = 0o640
_PAGES = ("/status", "/health", "/metrics", "/logs")
_NUMBER = re.compile(r"[0-9]{1,15}")
_HOST = re.compile(r"(?:\[([^\]]+)\]|([^\[\]:]+))(?::[0-9]{1,5})?")


class StatusServer:
    """Answers as long as the worker lives, from before its start to after its drain."""

    def __init__(
        self,
        listen: str,
        status: Callable[[], Status],
        output: Output | None = None,
        *,
        actions: Mapping[str, Callable[[], bool]] | None = None,
        optional: bool = False,
        token_directories: Sequence[Path] = (),
    ) -> None:
        """Make one; ``start`` opens it.

        Args:
            listen: ``host:port``, the path of a unix socket, or "" for none.
            status: gives what is told.
            output: what the processes have printed.
            actions: what can be asked for with POST, by name; each tells whether the worker does it.
            optional: whether to go on without, with a warning, where the address cannot be had.
            token_directories: where the token may be kept that is asked for over TCP; the first that can be written.
        """
        self._listen = listen
        self._path = listen.removeprefix("unix:") if listen.startswith(("/", "unix:")) else ""
        self._status = status
        self._output = output
        self._actions = actions or {}
        self._optional = optional
        self._token_directories = token_directories
        self._token = secrets.token_urlsafe(32)
        self._token_path: Path | None = None
        self._host = ""
        self._connections = Connections(self._answer)
        self._server: asyncio.Server | None = None
        self._file: tuple[int, int] | None = None

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            ConfigError: the address cannot be had. An optional one is given up with a warning instead: two workers
                may be on one host without anybody having thought of it.
        """
        if not self._listen:
            return
        try:
            self._server = await (self._start_unix() if self._path else self._start_tcp())
        except OSError as error:
            reason = f"status.listen: cannot listen on {self._listen} ({error.strerror or error})"
            if not self._optional:
                raise ConfigError(f"{reason}; set another address, or an empty one to do without") from None
            log.warning("%s; there is no status endpoint, set another address for one", reason)
        else:
            log.info("the status endpoint listens on %s", self._listen)

    async def _start_tcp(self) -> asyncio.Server:
        self._host, port = parse_address(self._listen)
        if not is_loopback(self._host):
            log.warning("status.listen: everybody who reaches %s can read this worker's status", self._listen)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connections.connection, self._host, port)
        self._token_path = self._write_token(token_name(port))
        return server

    def _write_token(self, name: str) -> Path | None:
        for directory in self._token_directories:
            new = directory / f".{name}.{os.getpid()}"
            try:
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
                new.unlink(missing_ok=True)
                with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, TOKEN_MODE), "w") as file:
                    file.write(self._token)
                return new.replace(directory / name)
            except OSError:
                continue
        places = ", ".join(map(str, self._token_directories)) or "no directory"
        log.warning("status.listen: the token cannot be written (%s): no command can drain or redeploy", places)
        return None

    async def _start_unix(self) -> asyncio.Server:
        listener = listen_at(Path(self._path))
        self._file = identity(Path(self._path))
        return await asyncio.get_running_loop().create_unix_server(self._connections.connection, sock=listener)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is None:
            return
        self._server.close()
        self._connections.close()
        if self._file is not None:
            remove(Path(self._path), self._file)
        if self._token_path is not None:
            self._token_path.unlink(missing_ok=True)
        self._server = None

    def _answer(self, request: Request) -> Response:
        log.debug("the status endpoint is asked for %s %s", request.method, request.path)
        try:
            return self._refusal(request) or self._page(request)
        except Exception:
            log.exception("the status cannot be told")
            return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log of the worker")

    def _refusal(self, request: Request) -> Response | None:
        """Why it is not answered: a page in a browser that was led here, what there is not, or who may not."""
        if request.peer is None and not _is_for(request.headers.get("host", ""), self._host):
            words = "the Host header names somebody else: use the address in status.listen, or localhost"
            return error_response(HTTPStatus.MISDIRECTED_REQUEST, words)
        is_action = request.path.removeprefix("/") in self._actions
        methods = ["POST"] if is_action else ["GET", "HEAD"]
        if request.method not in methods:
            return error_response(
                HTTPStatus.METHOD_NOT_ALLOWED, f"only {' and '.join(methods)}", f"Allow: {', '.join(methods)}"
            )
        if is_action or request.path in _PAGES:
            return self._ban(request, is_action=is_action)
        known = ", ".join((*_PAGES, *(f"POST /{name}" for name in self._actions)))
        return error_response(HTTPStatus.NOT_FOUND, f"there are {known}")

    def _ban(self, request: Request, *, is_action: bool) -> Response | None:
        """Whoever may not: over TCP it takes the token, over a socket file the file lets in who may read."""
        if request.peer is None:
            if (is_action or request.path == "/logs") and not self._has_token(request):
                words = "this needs the token of the endpoint (Authorization: Bearer)"
                return error_response(HTTPStatus.UNAUTHORIZED, words, "WWW-Authenticate: Bearer")
        elif is_action and request.peer.uid not in {ROOT, os.geteuid()}:
            return error_response(HTTPStatus.FORBIDDEN, "only root and the worker's own user may do this")
        return None

    def _has_token(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode("latin-1"), f"Bearer {self._token}".encode())

    def _page(self, request: Request) -> Response:
        status = self._status()
        if request.method == "POST":
            return self._act(request.path.removeprefix("/"), status)
        if request.path == "/logs":
            return self._lines(status["worker_id"], dict(parse_qsl(request.query)))
        if request.path == "/metrics":
            return Response(HTTPStatus.OK, prometheus.metrics(status), prometheus.CONTENT_TYPE)
        if request.path == "/status":
            return json_response(HTTPStatus.OK, status)
        verdict = judge(status, now=status["now"])
        code = HTTPStatus.OK if verdict.well else HTTPStatus.SERVICE_UNAVAILABLE
        return json_response(code, {"state": verdict.state, "reason": verdict.reason, "restart": verdict.restart})

    def _act(self, name: str, before: Status) -> Response:
        log.info("asked to %s over the status endpoint", name)
        if not self._actions[name]():
            return error_response(HTTPStatus.CONFLICT, f"the worker does not {name} now: it is {before['status']}")
        return json_response(HTTPStatus.ACCEPTED, before)

    def _lines(self, worker_id: str, wanted: dict[str, str]) -> Response:
        numbers = {name: wanted.get(name, default) for name, default in (("lines", "100"), ("after", "0"))}
        if not all(_NUMBER.fullmatch(text) for text in numbers.values()):
            return error_response(HTTPStatus.BAD_REQUEST, "lines and after are whole numbers")
        count, after = int(numbers["lines"]), int(numbers["after"])
        lines = self._output.newest(count, after, wanted.get("queue", "")) if self._output else []
        return json_response(HTTPStatus.OK, {"worker_id": worker_id, "lines": lines})


def _is_for(given: str, host: str) -> bool:
    """Whether a Host header names this endpoint. A page in a browser, whose name is made to lead here, names itself.

    Args:
        given: the header.
        host: of the address that is listened on.
    """
    found = _HOST.fullmatch(given)
    if found is None:
        return False
    name, own = (found[1] or found[2]).lower(), socket.gethostname().lower()
    if name == host.lower() or is_loopback(name):
        return True
    if is_loopback(host):
        return False
    return _is_ip(name) or name == own or name.startswith(f"{own.partition('.')[0]}.")


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
