"""A registration server, on loopback by default: answers ``POST /worker/register`` as the runqy server does."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class QueueDefinition:
    """What the server knows about one parent queue.

    Attributes:
        sub_queues: full name to priority; empty for none.
        deployment: git_url, branch, startup_cmd and so on, as the server sends them.
        vaults: secrets for the process's environment.
    """

    name: str
    deployment: dict[str, Any]
    sub_queues: dict[str, int] = field(default_factory=dict)
    vaults: dict[str, str] = field(default_factory=dict)
    git_token: str = ""


class RegistrationServer:
    """Runs in a thread until it is closed.

    Attributes:
        url: where it is.
        requests: what workers have sent, in order.
        queues: parent queue to definition; may be changed while it runs.
    """

    def __init__(
        self,
        redis_address: str,
        api_key: str,
        queues: list[QueueDefinition],
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.redis: dict[str, Any] = {"addr": redis_address, "password": "", "db": 0, "use_tls": False}
        self.api_key = api_key
        self.queues = {queue.name: queue for queue in queues}
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, answer = outer.answer(self)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(listen, Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="registration server")
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, Any]]:
        """Status and body for one request."""
        if request.path != "/worker/register":
            return 404, {"error": "no such path"}
        if request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return 401, {"error": "invalid API key"}
        body = json.loads(request.rfile.read(int(request.headers.get("Content-Length", 0))))
        self.requests.append(body)
        queue = self.queues.get(body.get("queue"))
        if queue is None:
            return 404, {"error": f"unknown queue {body.get('queue')}"}
        subs = [{"name": name, "priority": priority} for name, priority in queue.sub_queues.items()]
        return 200, {
            "redis": self.redis,
            "queue": {"name": queue.name, "priority": 1},
            "sub_queues": subs or None,
            "deployment": queue.deployment,
            "vaults": queue.vaults or None,
            "git_token": queue.git_token,
        }

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
