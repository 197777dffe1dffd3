"""The last error of a start that fails names no secret of the configuration, even if the server quotes them all."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from host_kit import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRETS = {
    "RUNQY_API_KEY": "hush-api-key-1",
    "RUNQY_REDIS_PASSWORD": "hush-redis-2",
    "RUNQY_REDIS_SENTINEL_PASSWORD": "hush-sentinel-3",
    "RUNQY_GIT_TOKEN": "hush-git-4",
}


@contextmanager
def server_that_quotes(words: str) -> Iterator[str]:
    """A registration server that refuses with these words."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.end_headers()
            self.wfile.write(json.dumps({"error": words}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("form", ["text", "json", "journald"])
def test_no_secret_of_the_configuration_is_in_the_last_error(form: str, tmp_path: Path) -> None:
    with server_that_quotes(f"you sent {' and '.join(SECRETS.values())}, fool\x1b[2J") as url:
        settings = {
            "server.url": url,
            "worker.queues": "inference",
            "redis.sentinel.nodes": "127.0.0.1:1",
            "redis.sentinel.master_name": "main",
            "status.listen": "",
            "deployment.dir": str(tmp_path / "deployment"),
            "log.format": form,
        }
        words = (word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
        done = command("run", *words, environment=SECRETS)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "you sent *** and *** and *** and ***, fool" in last
    assert "\x1b" not in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS.values())
