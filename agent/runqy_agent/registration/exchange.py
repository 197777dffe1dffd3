"""One request to the runqy server, with the bounds that keep a wrong or hostile server harmless.

The key goes to the configured host only, and never from https to http. An answer is read up to 4 MiB and within the
timeout.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import ssl
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from runqy_agent.config.duration import format_duration
from runqy_agent.errors import ConfigError, RegistrationError
from runqy_agent.registration.body import BoundedBody

if TYPE_CHECKING:
    from runqy_agent.config.settings import Secret, ServerSettings

_MAX_BODY = 4 * 1024 * 1024
_MAX_REDIRECTS = 3
_MAX_RETRY_AFTER = 60.0  # seconds
_QUOTED = 200  # characters of an answer in an error
_RETRYABLE = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_ADVICE: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "it does not accept the request",
    HTTPStatus.UNAUTHORIZED: "it does not accept the key; check server.api_key",
    HTTPStatus.FORBIDDEN: "the key does not allow this queue; check server.api_key and worker.queue",
    HTTPStatus.NOT_FOUND: "it does not know the queue, or is no runqy server; check worker.queue and server.url",
}


class TryAgainError(RegistrationError):
    """The server is unreachable or busy.

    Attributes:
        retry_after: seconds the server asks to wait, at most 60; 0 if it does not say.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message, retryable=True)
        self.retry_after = retry_after


def client_for(server: ServerSettings, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """An HTTP client that trusts the system's CAs, or only ``server.ca_file``.

    Raises:
        ConfigError: the CA file cannot be used.
    """
    try:
        trust = ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"server.ca_file: cannot use {server.ca_file}: {error.strerror or error}") from None
    return httpx.AsyncClient(verify=trust, transport=transport, timeout=server.timeout, follow_redirects=False)


@dataclass(frozen=True)
class Exchange:
    """POSTs a registration and returns the body of the answer."""

    client: httpx.AsyncClient
    server: ServerSettings

    @property
    def url(self) -> str:
        """Where registrations go."""
        return f"{self.server.url.rstrip('/')}/worker/register"

    async def post(self, request: dict[str, str]) -> bytes:
        """Send one registration.

        Returns:
            The body of a successful answer.

        Raises:
            TryAgainError: the server cannot be reached, or says that it is busy or broken.
            RegistrationError: it refused, or its answer cannot be a registration.
        """
        try:
            return await asyncio.wait_for(self._follow(request), self.server.timeout)
        except (asyncio.TimeoutError, httpx.TimeoutException):
            raise TryAgainError(f"no answer within {format_duration(self.server.timeout)}") from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise RegistrationError(f"server.url cannot be used: {error}") from None
        except httpx.TransportError as error:
            raise TryAgainError(f"cannot reach the server: {_reason(error)}") from None
        except httpx.HTTPError as error:
            raise RegistrationError(f"cannot read the server's answer: {_reason(error)}") from None

    async def _follow(self, request: dict[str, str]) -> bytes:
        url = httpx.URL(self.url)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._send(url, request)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise RegistrationError(f"the server redirects more than {_MAX_REDIRECTS} times; check server.url")

    async def _send(self, url: httpx.URL, request: dict[str, str]) -> bytes | httpx.URL:
        key = _key(self.server)
        headers = {"Authorization": f"Bearer {key.reveal()}", "Accept": "application/json", "Accept-Encoding": "gzip"}
        async with self.client.stream("POST", url, json=request, headers=headers) as response:
            if response.has_redirect_location:
                return _redirect(url, response)
            if not response.is_success:
                body = await _read(response, strict=False)
                raise _refusal(response, body, key)
            body = await _read(response, strict=True)
        if _is_html(response, body):
            raise RegistrationError(f"{url} answered HTML instead of JSON; check that server.url is a runqy server")
        return body


def _key(server: ServerSettings) -> Secret:
    if server.api_key is None:
        raise ConfigError("server.api_key: required")
    return server.api_key


async def _read(response: httpx.Response, *, strict: bool) -> bytes:
    """Read a body up to the bound; of an error's body, silently, only as much."""
    body = BoundedBody(response.headers.get("content-encoding", ""), _MAX_BODY)
    try:
        async for chunk in response.aiter_raw():  # httpx itself would decode without a bound
            body.add(chunk)
        return body.whole()
    except ValueError as error:
        if strict:
            raise RegistrationError(f"the server's answer {error}") from None
        return body.begun()


def _redirect(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    target = url.join(response.headers["location"])
    place = f"{target.scheme}://{target.netloc.decode('ascii', 'replace').rpartition('@')[2]}"
    if target.host != url.host:
        raise RegistrationError(f"the server redirects to another host, {place}; set server.url to where it really is")
    if url.scheme == "https" and target.scheme != "https":
        raise RegistrationError(f"the server redirects from https to {target.scheme}; the key is not sent unencrypted")
    if target.scheme == url.scheme and target.port != url.port:
        raise RegistrationError(f"the server redirects to another port, {place}; set server.url to where it really is")
    return target.copy_with(userinfo=b"")


def _refusal(response: httpx.Response, body: bytes, key: Secret) -> RegistrationError:
    status = response.status_code
    parts = [f"the server answered {status}", _ADVICE.get(status, "")]
    reason = "" if _is_html(response, body) else _explanation(body, key)
    text = ": ".join(part for part in (*parts, reason) if part)
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TryAgainError(text, _retry_after(response))
    return RegistrationError(text)


def _explanation(body: bytes, key: Secret) -> str:
    """What the server says about its refusal: its error message, else the beginning of the text."""
    text = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        text = next((parsed[name] for name in ("error", "message") if isinstance(parsed.get(name), str)), text)
    # Before anything is cut off, so that no part of the key is left over.
    for form in {key.reveal(), json.dumps(key.reveal())[1:-1]}:
        text = text.replace(form, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..."


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _is_html(response: httpx.Response, body: bytes) -> bool:
    return "html" in response.headers.get("content-type", "").lower() or body.lstrip()[:1] == b"<"


def _reason(error: httpx.HTTPError) -> str:
    """The operating system's word for what went wrong where there is one; httpx says little itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:
            return os.strerror(cause.errno)  # asyncio puts its own words in strerror
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
