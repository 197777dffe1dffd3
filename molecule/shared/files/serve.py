"""The demo's registration server as a service, with what is in a file at the moment of each question.

Usage: serve.py PORT FILE    (FILE: JSON with redis, api_key and queues, each with name, deployment, sub_queues, vaults)
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registration_server import QueueDefinition, RegistrationServer

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler


class FileServer(RegistrationServer):
    """Answers with what its file says."""

    def __init__(self, port: int, file: Path) -> None:
        self._file = file
        super().__init__("", "", [], listen=("0.0.0.0", port))  # noqa: S104 - the workers are on other hosts

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, Any]]:
        """Read the file, then answer."""
        content = json.loads(self._file.read_text(encoding="utf-8"))
        self.redis, self.api_key = content["redis"], content["api_key"]
        self.queues = {queue["name"]: QueueDefinition(**queue) for queue in content["queues"]}
        return super().answer(request)


if __name__ == "__main__":
    FileServer(int(sys.argv[1]), Path(sys.argv[2]))
    threading.Event().wait()
