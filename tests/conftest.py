from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from runqy_agent.demo.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

# The same examples in every run, and no limit to how slow a machine may be.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis of the tests' own, on a free port."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    client = redis_server.client()
    yield client
    for key in client.scan_iter(count=1000):
        client.delete(key)
    client.close()
