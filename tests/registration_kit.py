"""Helpers of the tests of the registration: the documented answer, and a server that plays back responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from runqy_agent.config import BootstrapSettings, Duration, Secret, ServerSettings
from runqy_agent.errors import ExitCode, RegistrationError
from runqy_agent.registration import Registration, read_answer, register

KEY = "s3cr3t-key"
URL = "https://runqy.example.com/worker/register"


def answer(**changes: Any) -> dict[str, Any]:
    """The answer of the original's documentation, with some fields changed."""
    return {
        "redis": {"addr": "redis.example.com:6379", "password": "r3dis", "db": 0, "use_tls": True},
        "queue": {"name": "inference", "priority": 6},
        "sub_queues": [{"name": "inference:high", "priority": 9}, {"name": "inference:low", "priority": 3}],
        "deployment": {
            "git_url": "https://github.com/example/inference-service.git",
            "branch": "main",
            "code_path": "src/tasks",
            "startup_cmd": "python main.py",
            "env_vars": {"MODEL_PATH": "/models/gpt"},
            "startup_timeout_secs": 300,
            "mode": "long_running",
        },
    } | changes


def read(**changes: Any) -> Registration:
    """That answer, understood."""
    return read_answer(json.dumps(answer(**changes)).encode())


class Server:
    """Plays back responses, one for each request, the last one for ever; remembers the requests and the waits."""

    def __init__(self, *responses: httpx.Response | Exception) -> None:
        self.responses = list(responses)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, Exception):
            raise response
        if response.is_stream_consumed:  # one that was made from its content; from a network it is a stream
            stream = httpx.ByteStream(response.content)
            return httpx.Response(response.status_code, headers=response.headers, stream=stream)
        return response

    def register(
        self, *queues: str, url: str = "https://runqy.example.com", retries: int = 3, timeout: float = 30
    ) -> list[Registration]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return asyncio.run(
            register(
                ServerSettings(url=url, api_key=Secret(KEY), timeout=Duration(timeout)),
                BootstrapSettings(retries=retries),
                queues or ("inference",),
                sleep=sleep,
                transport=httpx.MockTransport(self),
            )
        )

    def refusal(self, **options: Any) -> RegistrationError:
        with pytest.raises(RegistrationError) as caught:
            self.register(**options)
        assert caught.value.exit_code == ExitCode.REGISTRATION
        assert KEY not in str(caught.value)
        return caught.value


def ok(**changes: Any) -> httpx.Response:
    """A successful response."""
    return httpx.Response(200, json=answer(**changes))
