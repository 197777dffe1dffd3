"""What the commands on a worker's host meet there, in a small form: a status endpoint, and systemd."""

from __future__ import annotations

import json
import os
import socketserver
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from runqy_agent.health import UnitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Status = dict[str, Any]

_SYSTEMCTL = """\
#!/bin/sh
cd "{directory}"
echo "$*" >>calls
case "$*" in
*show*) cat state ;;
*reset-failed*) ;;
*restart*)
    cp ../records/u.jsonl recorded 2>>/dev/null
    test ! -e refuse || {{ cat refuse >&2; exit 4; }}
    test ! -e next || cp next state
    ;;
esac
"""
_JOURNALCTL = """\
#!/bin/sh
cd "{directory}"
echo "journalctl $*" >>calls
cat journal
"""


def process(state: str = "ready", **changes: Any) -> dict[str, Any]:
    """A process as the status endpoint tells of it; in its state since long ago."""
    known = {"reason": "", "since": 0.0, "commit": "c" * 40, "consecutive_fails": 0, "total_restarts": 0}
    known |= {
        "retry_at": 0.0,
        "stale": False,
        "wanted": "",
        "stale_reason": "",
        "dropped_responses": 0,
        "processes": [],
    }
    return {"state": state} | known | changes


def worker_status(**changes: Any) -> Status:
    """What a healthy worker says; ``redis`` adds to what it says of Redis."""
    now = changes.pop("now", time.time())
    redis = {"address": "127.0.0.1:1/0", "last_beat": now, "error": ""} | changes.pop("redis", {})
    return {
        "worker_id": "host:7:old",
        "version": "1.2.3",
        "pid": 7,
        "host": "host",
        "started_at": now - 3600,
        "status": "running",
        "healthy": True,
        "queues": {"inference.high": 9},
        "concurrency": 4,
        "running": 0,
        "tasks": {"succeeded": 1, "failed": 0, "put_back": 0, "lost": 0},
        "processes": {"inference": process()},
        "redeploy": {"number": 0, "running": False, "at": 0.0, "results": {}, "restart": []},
        "redis": redis,
        "clock_offset": 0.0,
        "config": "",
        "now": now,
    } | changes


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Worker:
    """Answers at a socket like a worker.

    Attributes:
        address: of its status endpoint.
        answer: gives the next answer: a status, bytes to send as they are, or None to hang up.
        asked: what it was asked to do, in order.
        refusal: code and words with which it refuses that; None if it does it.
        lines: what its processes have printed; None where it does not tell.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.answer: Callable[[], Status | bytes | None] = worker_status
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self.lines: list[dict[str, Any]] | None = None

    def says(self, **changes: Any) -> None:
        """From now on it says this, with fresh times."""
        self.answer = lambda: worker_status(**changes)

    def output(self) -> dict[str, Any] | bytes:
        """What it says of the lines."""
        return b"{}" if self.lines is None else {"worker_id": "host:7:old", "lines": self.lines}

    @contextmanager
    def serve(self) -> Iterator[Worker]:
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = worker.answer() if self.path == "/status" else worker.output()
                if answer is None:
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def do_POST(self) -> None:
                code, words = worker.refusal or (202, "")
                answer = {"error": words} if words else worker.answer()
                if not words:
                    worker.asked.append(self.path)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
                pass

        server = _UnixServer(self.address, Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            os.unlink(self.address)  # noqa: PTH108 - addresses are text here


class Systemd:
    """``systemctl`` and ``journalctl`` that know one unit and remember how they were called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = str(directory)
        for name, text in (("systemctl", _SYSTEMCTL), ("journalctl", _JOURNALCTL)):
            (directory / name).write_text(text.format(directory=directory))
            (directory / name).chmod(0o755)
        (directory / "journal").write_text("one\nlast words\n")
        self.knows()

    def knows(self, state: UnitState | None = None, *, after_restart: bool = False, load: str = "loaded") -> None:
        """Set the state of the unit, by default a running one: now, or once it is restarted."""
        state = state or UnitState("active", "running", pid=7)
        fields = {
            "ActiveState": state.active,
            "SubState": state.sub,
            "Result": state.result,
            "ExecMainStatus": state.exit_status,
            "MainPID": state.pid,
            "NRestarts": state.restarts,
            "LoadState": load,
            "Job": 17 if state.queued else "",
        }
        text = "".join(f"{name}={value}\n" for name, value in fields.items())
        new = self._directory / "new"
        new.write_text(text)
        new.replace(self._directory / ("next" if after_restart else "state"))

    def refuses(self, words: str) -> None:
        """From now on it restarts nothing."""
        (self._directory / "refuse").write_text(f"{words}\n")

    def calls(self, *but: str) -> list[str]:
        """How they were called, without calls of these words: by default without questions for the state."""
        calls = self._directory / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if not any(word in line for word in but or ("show",))]

    def recorded(self) -> list[dict[str, Any]]:
        """What the records of the unit ``u`` held when it was to restart."""
        path = self._directory / "recorded"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def restarted(self) -> bool:
        """Whether a restart was asked for."""
        return any("restart " in call for call in self.calls())
