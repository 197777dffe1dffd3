from __future__ import annotations

import asyncio
import json
import logging
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from registration_kit import KEY, URL, Server, answer, ok
from runqy_agent._version import __version__
from runqy_agent.config import BootstrapSettings, Duration, Secret, ServerSettings
from runqy_agent.errors import ConfigError, RegistrationError
from runqy_agent.registration import register

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


def test_each_parent_is_registered_once_with_key_and_identity() -> None:
    server = Server(ok())
    assert len(server.register("inference.high", "inference:low", "inference", "simple")) == 2
    sent = [json.loads(request.content) for request in server.requests]
    assert [body["queue"] for body in sent] == ["inference", "simple"]
    assert set(sent[0]) == {"queue", "hostname", "os", "version"}
    assert sent[0]["version"] == __version__
    assert sent[0]["hostname"]
    assert str(server.requests[0].url) == URL
    assert server.requests[0].method == "POST"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        *(httpx.Response(status) for status in (408, 425, 429, 500, 502, 503, 599)),
    ],
)
def test_a_server_that_is_away_is_tried_again(failure: httpx.Response | Exception) -> None:
    server = Server(failure, failure, ok())
    assert server.register()[0].queue.name == "inference"
    assert server.waits == [5, 5]


def test_the_attempts_come_to_an_end() -> None:
    server = Server(httpx.ConnectError("connection refused"))
    error = server.refusal(retries=4)
    assert error.retryable
    assert len(server.requests) == 4
    assert "failed 4 times, at last: cannot reach the server: connection refused" in str(error)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "it does not accept the request"),
        (401, "check server.api_key"),
        (403, "check server.api_key and worker.queue"),
        (404, "check worker.queue and server.url"),
        (405, "the server answered 405"),
        (422, "the server answered 422"),
        (304, "the server answered 304"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(status: int, advice: str) -> None:
    server = Server(httpx.Response(status, json={"error": "no such luck"}))
    error = server.refusal()
    assert not error.retryable
    assert len(server.requests) == 1
    assert f"the server answered {status}" in str(error)
    assert advice in str(error)
    assert "no such luck" in str(error)
    assert URL in str(error)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "wrong key"}', "wrong key"),
        (b'{"message": "wrong key"}', "wrong key"),
        (b'{"error": {"code": 1}, "message": "wrong key"}', "wrong key"),
        (b"plain\n\x1b[31mtext", "plain [31mtext"),
        (b"\xff\xfe", "the server answered 403"),
        (f"the key {KEY} is wrong".encode(), "the key *** is wrong"),
        (("x" * 190 + KEY).encode(), "x" * 190 + "***"),
        (b"y" * 5000, "y" * 197 + "..."),
        (b"[" * 5000, "[" * 197 + "..."),
        (b"", "the server answered 403"),
    ],
)
def test_the_reason_of_a_refusal_is_quoted_within_bounds(body: bytes, said: str) -> None:
    text = str(Server(httpx.Response(403, content=body)).refusal())
    assert said in text
    assert len(text) < 500
    assert KEY[:6] not in text


def test_a_page_of_a_proxy_is_not_quoted() -> None:
    text = str(Server(httpx.Response(502, html="<html>Bad Gateway")).refusal(retries=1))
    assert "the server answered 502" in text
    assert "<html>" not in text


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", 7),
        ("3600", 60),
        ("0", 5),
        ("soon", 5),
        ("-5", 5),
        pytest.param(formatdate(time() + 3600, usegmt=True), 60, id="in an hour"),  # ids must not tell the time
        (formatdate(0, usegmt=True), 5),
    ],
)
def test_the_server_may_ask_for_a_longer_wait_up_to_a_minute(value: str, wait: float) -> None:
    server = Server(httpx.Response(429, headers={"Retry-After": value}), ok())
    server.register()
    assert server.waits == [wait]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, html="<html>Welcome"), f"{URL} answered HTML instead of JSON"),
        (httpx.Response(200, content=b"\n <!doctype html>"), f"{URL} answered HTML instead of JSON"),
        (httpx.Response(200, content=b""), "not valid JSON"),
        (httpx.Response(204), "not valid JSON"),
        (httpx.Response(200, content=b'{"redis": {"password": "r3dis"'), "not valid JSON"),
        (httpx.Response(200, content=b"[" * 100_000), "not valid JSON"),
        (httpx.Response(200, content=b'"\xff"'), "not valid JSON"),
        (httpx.Response(200, json=[1]), "a list instead of a JSON object"),
        (httpx.Response(200, json={}), "lacks queue.name"),
    ],
)
def test_an_answer_that_is_no_registration_is_final_and_not_quoted(response: httpx.Response, said: str) -> None:
    server = Server(httpx.Response(200, content=b""))
    server.responses = [response]
    error = server.refusal()
    assert said in str(error)
    assert len(server.requests) == 1
    assert "r3dis" not in str(error)


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65536

    error = Server(httpx.Response(200, content=endless())).refusal()
    assert "the server's answer is larger than 4 MiB" in str(error)
    assert sent <= 4 * 16 + 2


def test_a_body_that_cannot_be_decoded_is_final() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"no gzip"

    server = Server(httpx.Response(200, content=broken(), headers={"Content-Encoding": "gzip"}))
    assert "the gzip that it claims to be" in str(server.refusal())
    assert len(server.requests) == 1


def test_an_answer_that_drips_ends_with_the_timeout() -> None:
    async def dripping() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    error = Server(httpx.Response(200, content=dripping())).refusal(timeout=0.2, retries=1)
    assert "no answer within 200ms" in str(error)
    assert error.retryable


def redirect(location: str, status: int = 302) -> httpx.Response:
    return httpx.Response(status, headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed_with_the_same_request(status: int) -> None:
    server = Server(redirect("/api/worker/register", status), ok())
    server.register()
    first, second = server.requests
    assert str(second.url) == "https://runqy.example.com/api/worker/register"
    assert (second.method, second.content) == (first.method, first.content)
    assert second.headers["authorization"] == f"Bearer {KEY}"


def test_an_upgrade_to_https_is_followed() -> None:
    server = Server(redirect("https://runqy.example.com/worker/register"), ok())
    server.register(url="http://runqy.example.com")
    assert server.requests[1].url.scheme == "https"


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://evil.example.com/worker/register", "redirects to another host, https://evil.example.com"),
        ("//evil.example.com/", "redirects to another host"),
        ("https://me:pw@evil.example.com/", "redirects to another host, https://evil.example.com"),
        ("http://runqy.example.com/worker/register", "redirects from https to http; the key is not sent unencrypted"),
        ("https://runqy.example.com:8443/", "redirects to another port"),
        ("ftp://runqy.example.com/", "redirects from https to ftp"),
    ],
)
def test_the_key_goes_nowhere_else(location: str, said: str) -> None:
    server = Server(redirect(location), ok())
    error = server.refusal()
    assert said in str(error)
    assert "pw" not in str(error)
    assert len(server.requests) == 1


def test_a_malformed_redirect_is_not_followed() -> None:
    server = Server(redirect("https://runqy.example.com:x/"))
    assert "Invalid URL in location header" in str(server.refusal(retries=1))
    assert len(server.requests) == 1


def test_redirects_come_to_an_end() -> None:
    server = Server(redirect("/round"))
    assert "redirects more than 3 times" in str(server.refusal())
    assert len(server.requests) == 4


@pytest.mark.parametrize("key", [None, Secret(""), Secret("two words"), Secret("sch\u00f6n"), Secret("a\nb")])
def test_a_key_that_cannot_be_sent_is_a_configuration_error(key: Secret | None) -> None:
    with pytest.raises(ConfigError, match=r"server\.api_key") as caught:
        asyncio.run(register(ServerSettings(url="https://h", api_key=key), BootstrapSettings(), ["q"]))
    assert "two" not in str(caught.value)


def test_a_ca_file_that_is_none_is_a_configuration_error(tmp_path: Any) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    settings = ServerSettings(url="https://h", api_key=Secret(KEY), ca_file=str(path))
    with pytest.raises(ConfigError, match=r"server\.ca_file: cannot use"):
        asyncio.run(register(settings, BootstrapSettings(), ["q"]))


def test_attempts_and_failures_are_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Server(httpx.Response(503, text=f"busy {KEY}"), ok(vaults={"A": "v4ult"})).register()
    lines = [record.getMessage() for record in caplog.records if record.name == "runqy_agent.registration"]
    assert lines[0] == f"registering for queue inference at {URL}, attempt 1 of 3"
    assert any("attempt 1 of 3 failed: the server answered 503" in line for line in lines)
    assert "registered for queue inference, with 2 sub-queues" in lines
    for secret in (KEY, "v4ult", "r3dis"):
        assert secret not in caplog.text


@contextmanager
def real_server(handle: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            handle(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_real_server_on_a_real_socket_is_registered_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    seen = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        seen.append((request.path, request.headers["Authorization"], json.loads(body)["queue"]))
        text = json.dumps(answer()).encode()
        request.send_response(200 if len(seen) > 1 else 503)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    with real_server(handle) as url:
        settings = ServerSettings(url=url, api_key=Secret(KEY))
        (found,) = asyncio.run(register(settings, BootstrapSettings(retry_delay=Duration(0)), ["inference"]))
    assert found.redis.password == Secret("r3dis")
    assert seen == [("/worker/register", f"Bearer {KEY}", "inference")] * 2


def test_a_port_that_nobody_listens_on_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with real_server(lambda _: None) as url:
        pass
    settings = ServerSettings(url=url, api_key=Secret(KEY))
    with pytest.raises(RegistrationError, match="cannot reach the server: Connection refused") as caught:
        asyncio.run(register(settings, BootstrapSettings(retries=1), ["inference"]))
    assert caught.value.retryable
