"""TLS towards the server and towards Git: a certificate nobody vouches for, or of another name, ends it."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from deployment_kit import deploy
from git_http_server import git_server
from redis_kit import Certificates
from registration_kit import KEY, answer
from runqy_agent.config import BootstrapSettings, Duration, Secret, ServerSettings
from runqy_agent.demo.registration_server import QueueDefinition, RegistrationServer
from runqy_agent.deployment import Source
from runqy_agent.errors import GitError, RegistrationError
from runqy_agent.registration import Registration, register

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import HTTPServer
    from pathlib import Path

    from deployment_kit import Bench


def serve_tls(server: HTTPServer, certificate: Path, key: Path) -> None:
    """Let a server that runs already take connections with TLS only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The handshake belongs to the thread of the connection: a client that breaks it off must not end the server.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes are the point of the test


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def server(authority: Certificates) -> Iterator[RegistrationServer]:
    server = RegistrationServer("localhost:6379", KEY, [QueueDefinition("inference", answer()["deployment"])])
    serve_tls(server._server, *authority.issue("server", "DNS:localhost"))
    yield server
    server.close()


def ask(server: RegistrationServer, host: str, ca_file: str) -> list[Registration]:
    port = server._server.server_address[1]
    settings = ServerSettings(url=f"https://{host}:{port}", api_key=Secret(KEY), ca_file=ca_file, timeout=Duration(10))
    return asyncio.run(register(settings, BootstrapSettings(retries=1), ["inference"]))


def test_the_key_goes_to_a_server_with_a_certificate_of_the_authority_in_the_settings(
    server: RegistrationServer, authority: Certificates
) -> None:
    (registration,) = ask(server, "localhost", str(authority.ca))
    assert registration.queue.name == "inference"


@pytest.mark.parametrize("case", ["of nobody", "of a stranger", "of another name"])
def test_the_key_does_not_go_to_a_server_with_a_certificate(
    server: RegistrationServer, authority: Certificates, tmp_path: Path, case: str
) -> None:
    stranger = Certificates(tmp_path / "stranger", "stranger")
    ca_file = {"of nobody": "", "of a stranger": str(stranger.ca), "of another name": str(authority.ca)}[case]
    with pytest.raises(RegistrationError, match=r"(?i)certificate"):
        ask(server, "127.0.0.1" if case == "of another name" else "localhost", ca_file)
    assert server.requests == []


def test_the_git_token_does_not_go_to_a_server_whose_certificate_nobody_vouches_for(
    bench: Bench, authority: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.repo.commit(main_dot_py="1")
    with git_server(tmp_path, "x-access-token", "t0ken-of-git") as server:
        serve_tls(server, *authority.issue("git", "DNS:localhost"))
        source = Source(f"https://localhost:{server.server_port}/repo/.git", "main")
        with pytest.raises(GitError, match=r"(?i)certificate"):
            deploy(bench.deployer(), source, "refused", Secret("t0ken-of-git"))
        assert server.seen == []
        monkeypatch.setenv("GIT_SSL_CAINFO", str(authority.ca))
        assert deploy(bench.deployer(), source, "trusted", Secret("t0ken-of-git")).commit
        assert server.seen
