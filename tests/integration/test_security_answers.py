"""Answers of the registration server that are small on the wire and huge when decoded; a real server sends them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from registration_kit import KEY, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MIB = 160
"""Resident memory of a worker that registers: the interpreter and its libraries take about 60."""
REGISTER = r"""
import asyncio, re, sys
from runqy_agent.config import BootstrapSettings, Secret, ServerSettings
from runqy_agent.registration import register
from runqy_agent.errors import RegistrationError
settings = ServerSettings(url=sys.argv[1], api_key=Secret(sys.argv[2]))
try:
    registrations = asyncio.run(register(settings, BootstrapSettings(retries=1), ["inference"]))
    print("registered for", registrations[0].queue.name)
except RegistrationError as error:
    print(error)
# Not ru_maxrss: that begins with the memory of whoever started this program.
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""
GOOD = json.dumps(answer()).encode()


def zeros(mib: int, wrapped: bytes = b"") -> bytes:
    """So many MiB of zeros in gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(mib)) + packer.flush() + wrapped


class Server(ThreadingHTTPServer):
    status = 200
    encoding = ""
    body = b""
    asked = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))  # a server that closes with something unread resets
        self.server.asked = self.headers.get("Accept-Encoding", "")
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        if self.server.encoding:
            self.send_header("Content-Encoding", self.server.encoding)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def register(server: Server) -> str:
    """What a worker in a process of its own makes of the answer. It must not have taken much memory."""
    command = [sys.executable, "-c", REGISTER, f"http://127.0.0.1:{server.server_port}", KEY]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    text, _, memory = out.strip().rpartition("\n")
    assert int(memory) < MOST_MIB
    return text


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", zeros(2048), "the server's answer is larger than 4 MiB"),
        (
            "gzip, gzip",
            gzip.compress(zeros(2048)),
            "the server's answer is encoded as gzip, gzip, which was not asked for",
        ),
        ("deflate", zlib.compress(GOOD), "is encoded as deflate, which"),
        ("br", GOOD, "is encoded as br, which"),
        ("zstd", GOOD, "is encoded as zstd, which"),
        ("gzip", GOOD, "is not the gzip that it claims to be"),
        ("gzip", gzip.compress(GOOD)[:-20], "ends in the middle of its gzip"),
        ("gzip", gzip.compress(GOOD) + GOOD, "goes on after the end of its gzip"),
        ("", bytes(5 * 2**20), "is larger than 4 MiB"),
    ],
    ids=["bomb", "nested", "deflate", "br", "zstd", "no gzip", "cut off", "trailing", "plain"],
)
def test_an_answer_that_grows_when_decoded_or_is_encoded_otherwise_is_refused_within_bounded_memory(
    encoding: str, body: bytes, words: str, server: Server
) -> None:
    server.encoding, server.body = encoding, body
    assert words in register(server)
    assert server.asked == "gzip"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "identity", ""])
def test_an_answer_in_gzip_or_in_no_encoding_is_read(encoding: str, server: Server) -> None:
    server.encoding = encoding
    server.body = gzip.compress(GOOD) if "gzip" in encoding.lower() else GOOD
    assert register(server) == "registered for inference"


def test_a_refusal_that_grows_when_decoded_is_quoted_up_to_its_bound_and_one_in_gzip_is_read(server: Server) -> None:
    server.status, server.encoding, server.body = 403, "gzip", zeros(2048)
    assert "the server answered 403" in register(server)
    server.body = gzip.compress(b'{"error": "not this queue"}')
    assert "not this queue" in register(server)
