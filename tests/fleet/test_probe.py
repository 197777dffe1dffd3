"""What the probe finds out about a host."""

from __future__ import annotations

import email.utils
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from host_programs import FILES, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

probe = load("probe")


class Server(ThreadingHTTPServer):
    """Answers 404, with a clock that may be wrong. Notes what it was asked."""

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ahead = 0.0
        self.asked: list[str] = []
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response_only(404)
        self.send_header("Date", email.utils.formatdate(time.time() + self.server.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_any_answer_of_the_server_will_do_and_its_clock_is_compared(server: Server) -> None:
    found = probe.ask_server(f"http://127.0.0.1:{server.port}", "", {})
    assert found["answers"]
    assert abs(found["skew"]) < 5
    server.ahead = 100
    assert -105 < probe.ask_server(f"http://127.0.0.1:{server.port}", "", {})["skew"] < -95


def test_a_server_with_a_private_authority_answers_those_who_trust_it(certificate: Path) -> None:
    server = Server(certificate)
    url = f"https://localhost:{server.port}"
    assert probe.ask_server(url, certificate.read_text(), {})["answers"]
    refused = probe.ask_server(url, "", {})
    assert not refused["answers"]
    assert "certificate verify failed" in refused["error"].lower()
    server.shutdown()
    server.server_close()


def test_the_server_is_asked_through_the_proxy(server: Server) -> None:
    found = probe.ask_server("http://runqy.example.com/", "", {"http": f"http://127.0.0.1:{server.port}"})
    assert found["answers"]
    assert server.asked == ["http://runqy.example.com/"]


def test_a_host_is_described_without_being_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {
        "scope": "user",
        "prefix": str(tmp_path / "prefix"),
        "config_dir": str(tmp_path / "etc"),
        "data_dir": str(tmp_path / "data"),
        "command": str(tmp_path / "command"),
        "user": "root",
        "group": "no such group",
        "listen": {},
        "server": {"url": "", "ca": "", "proxies": {}},
    }
    (tmp_path / "etc/credentials/runqy-agent").mkdir(parents=True)
    (tmp_path / "etc/config.yml").write_text("x")
    (tmp_path / "etc/previous.tar").write_text("x")
    (tmp_path / "prefix/versions/half").mkdir(parents=True)
    (tmp_path / "prefix/versions/whole").mkdir()
    (tmp_path / "prefix/versions/whole/.complete").touch()
    (tmp_path / "prefix/current").symlink_to("versions/whole")
    before = sorted(tmp_path.rglob("*"))
    probe.main(arguments)
    found = json.loads(capsys.readouterr().out)
    assert found["versions"] == ["whole"]
    assert found["current"] == "whole"
    assert found["previous"]
    assert not found["restart_pending"]
    assert list(found["files"]) == [str(tmp_path / "etc/config.yml")]
    assert found["account"] == {"uid": 0, "gid": None}
    assert str(tmp_path / "etc/credentials/runqy-agent") in found["directories"]
    assert found["server"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_a_host_without_python_says_so_though_nobody_reads_the_program() -> None:
    """The module writes the program whenever it comes to it: also after the shell has looked."""
    script = (FILES / "find_python.sh").read_text()
    command = ["/bin/sh", "-c", script, "find_python", "/nowhere/python"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as look:
        assert look.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            look.wait(0.3)  # it goes on reading
        answer, _ = look.communicate(b"print('never')\n")
    assert json.loads(answer) == {"python": None, "found": ""}
    assert look.returncode == 0
