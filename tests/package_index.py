"""A package index with wheels of the tests' own, for what Poetry and uv lock and pip installs."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class PackageIndex(ThreadingHTTPServer):
    """The wheels of a directory as the simple repository API (PEP 503) offers them.

    Those in a directory ``own`` inside it are another index, beside it.
    """

    def __init__(self, wheels: Path) -> None:
        super().__init__(("127.0.0.1", 0), _IndexHandler)
        self.wheels = wheels
        self.requests: list[str] = []
        """The paths that were asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple/"


class _IndexHandler(BaseHTTPRequestHandler):
    server: PackageIndex

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        parts = self.path.strip("/").split("/")
        wheels = self.server.wheels / ("own" if parts[0].startswith("own") else "")
        if parts[0] in {"simple", "own"} and len(parts) == 2:
            found = sorted(wheels.glob(f"{parts[1].replace('-', '_')}-*.whl"))
            files = "own-files" if parts[0] == "own" else "files"
            links = (f'<a href="/{files}/{path.name}#sha256={_digest(path)}">{path.name}</a>' for path in found)
            self._answer("".join(links).encode() if found else None, "text/html")
        elif parts[0] in {"files", "own-files"} and (wheels / parts[-1]).is_file():
            self._answer((wheels / parts[-1]).read_bytes(), "application/octet-stream")
        else:
            self._answer(None, "text/plain")

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def _answer(self, content: bytes | None, kind: str) -> None:
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def package_index(wheels: Path) -> Iterator[PackageIndex]:
    """Serve the wheels of a directory, whichever they are at the time."""
    server = PackageIndex(wheels)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
