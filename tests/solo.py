"""A worker with a handler, in a thread of the tests' own process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runqy_agent import Worker, load_config
from stage import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def serving(address: str, *queues: str, environment: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Start a worker whose handler returns at once, and stop it in the end.

    Args:
        address: of Redis.
        queues: the sub-queues.
        environment: more settings.

    Raises:
        RunqyAgentError: it does not start.
    """
    settings = {"RUNQY_REDIS_ADDRESS": address, "RUNQY_BOOTSTRAP_RETRY_DELAY": "10ms", **(environment or {})}
    worker = Worker(load_config(environ=settings, server_required=False), queues=dict.fromkeys(queues, 1))
    failures: list[BaseException] = []

    async def handle(_: Any) -> None:
        await asyncio.sleep(0)

    def serve() -> None:
        try:
            asyncio.run(worker.serve())
        except BaseException as error:  # noqa: BLE001  # it is raised in the test's thread
            failures.append(error)

    worker.handle_default(handle)
    thread = threading.Thread(target=serve, name="worker")
    thread.start()
    try:
        until(lambda: worker.status == "running" or failures, "the worker is running")
        if not failures:
            yield worker
    finally:
        worker.stop()
        thread.join()
    if failures:
        raise failures[0]
