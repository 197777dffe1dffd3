from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

from runqy_agent.demo.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

# The same examples in every run, and no limit to how slow a machine may be. A failure is reported as it was found, with
# what repeats it: looking for a shorter one takes minutes where an example is a history in Redis. RUNQY_SHRINK=1 does.
PHASES = tuple(Phase) if os.environ.get("RUNQY_SHRINK") else (Phase.explicit, Phase.generate)
settings.register_profile("steady", derandomize=True, deadline=None, phases=PHASES, print_blob=True)
settings.load_profile("steady")

PATIENCE = {"chaos": 1800, "fleet": 900}
"""Seconds that a test may take, by directory, where the default of pyproject.toml is too few: leases end in real time,
and whole playbooks are played."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of some directories more time; a mark of their own goes before it."""
    for item in items:
        seconds = PATIENCE.get(item.path.parent.name)
        if seconds is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor, as the tests wait half of the time; not many, as each builds environments of its own."""
    return min(8, 2 * (os.cpu_count() or 1))


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
