"""The worker inside somebody else's program."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent import BrokerError, Config, Task, Worker, load_config
from runqy_agent.broker import keys
from runqy_agent.demo.client import TaskClient, message
from runqy_agent.demo.redis_server import free_port
from stage import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from runqy_agent.demo.client import TaskInfo
    from runqy_agent.demo.redis_server import RedisServer

DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"


def program_of_the_document() -> str:
    """The first block of Python in docs/library.md."""
    found = re.search(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def settings(redis_server: RedisServer, **more: str) -> Config:
    return load_config(None, environ={"RUNQY_REDIS_ADDRESS": redis_server.address, **more}, server_required=False)


def pending(redis_client: redis.Redis, queue: str) -> list[str]:
    """Ids in the order in which they will be taken."""
    ids: Any = redis_client.lrange(keys.queue_keys(queue).pending, 0, -1)
    return [task_id.decode() for task_id in reversed(ids)]


def records(redis_client: redis.Redis) -> list[bytes]:
    return [*redis_client.scan_iter("asynq:workers:*"), *redis_client.scan_iter("asynq:servers:*")]


def test_the_program_of_the_document_does_what_it_says(
    redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    client = TaskClient(redis_client)

    def enqueue(task_type: str, payload: bytes, queue: str = "default") -> str:
        return client.enqueue_all([message(queue, payload, task_type=task_type)])[0]

    good = enqueue("email:send", b'{"to": "a@example.com"}', "critical")
    no_address = enqueue("email:send", b'{"to": "nobody"}')
    revoked = enqueue("email:send", b'{"to": "a@example.com", "cancelled": true}')
    resized = enqueue("image:resize", b"640")
    broken = enqueue("image:resize", b"wide", "critical")
    homeless = enqueue("image:rotate", b"90")
    other = enqueue("video:cut", b"{}")

    path = tmp_path / "program.py"
    path.write_text(program_of_the_document(), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNQY_")}
    environment |= {"RUNQY_REDIS_ADDRESS": redis_server.address, "RUNQY_CONCURRENCY": "3"}
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen([sys.executable, str(path)], env=environment, stdout=log, stderr=log)
        try:

            def everything_settled() -> bool:
                assert program.poll() is None, (tmp_path / "log").read_text()
                waiting = [client.info("critical", good), client.info("critical", broken)]
                waiting += [client.info("default", each) for each in (no_address, revoked, resized, homeless, other)]
                return not any(info and info.state in {"pending", "active"} for info in waiting)

            until(everything_settled, "all tasks have run")
            program.send_signal(signal.SIGTERM)
            assert program.wait(PATIENCE) == 0
        finally:
            program.kill()
            program.wait()

    def info(queue: str, task_id: str) -> TaskInfo:
        found = client.info(queue, task_id)
        assert found
        return found

    assert (info("critical", good).state, info("critical", good).result) == (
        "completed",
        b'{"sent_to":"a@example.com"}',
    )
    assert (info("default", resized).state, info("default", resized).result) == ("completed", b'{"width":320}')
    assert info("default", other).result == b'"no special handler for video:cut"'
    assert (info("default", no_address).state, info("default", no_address).message.error_msg) == (
        "archived",
        "nobody is no address",
    )
    assert client.info("default", revoked) is None
    failed = info("critical", broken)
    assert (failed.state, failed.message.retried) == ("retry", 1)
    assert "ValueError: invalid literal for int()" in failed.message.error_msg
    assert info("default", homeless).message.error_msg == "no handler for task type 'image:rotate'"
    assert re.search(rf"{good} took \d+\.\d+", (tmp_path / "log").read_text())
    assert records(redis_client) == []


def test_every_other_block_of_the_document_is_python() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "docs/library.md", "exec")


class Busy:
    """A worker with one task that runs until it is cut off, and one that waits behind it."""

    def __init__(self, redis_server: RedisServer, redis_client: redis.Redis) -> None:
        self.client = TaskClient(redis_client)
        self.ids = [self.client.enqueue("q", b"1"), self.client.enqueue("q", b"2")]
        self.worker = Worker(settings(redis_server, RUNQY_SHUTDOWN_TIMEOUT="10h"), queues={"q": 1})
        self.worker.handle_default(self._forever)
        self.begun = threading.Event()
        self.cut_off = False

    async def _forever(self, _: Task) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cut_off = True
            raise

    def end(self, how: Callable[[asyncio.Task[None]], Awaitable[None]]) -> None:
        """Serve, and do something once the first task is running."""

        async def run() -> None:
            serving = asyncio.create_task(self.worker.serve())
            await asyncio.to_thread(self.begun.wait, PATIENCE)
            await how(serving)

        asyncio.run(asyncio.wait_for(run(), PATIENCE))

    def assert_nothing_lost(self, redis_client: redis.Redis) -> None:
        assert self.cut_off
        assert pending(redis_client, "q") == self.ids
        first = self.client.info("q", self.ids[0])
        assert first
        assert (first.state, first.message.retried, first.message.error_msg) == ("pending", 0, "")
        assert records(redis_client) == []


def test_cancelling_the_worker_puts_running_tasks_back_at_once_and_uncounted(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    async def cancel(serving: asyncio.Task[None]) -> None:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    busy = Busy(redis_server, redis_client)
    busy.end(cancel)
    busy.assert_nothing_lost(redis_client)


def test_a_second_stop_does_not_wait_for_running_tasks(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    async def stop_twice(serving: asyncio.Task[None]) -> None:
        busy.worker.stop()
        busy.worker.stop()
        await serving

    busy = Busy(redis_server, redis_client)
    busy.end(stop_twice)
    busy.assert_nothing_lost(redis_client)


def test_a_worker_blocking_in_a_thread_is_stopped_from_another_and_leaves_signals_alone(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    client = TaskClient(redis_client)
    task_id = client.enqueue("q", b"1")
    worker = Worker(settings(redis_server, RUNQY_QUEUES="q"))
    worker.handle_default(lambda task: task.json())
    thread = threading.Thread(target=worker.run_blocking)
    thread.start()
    try:
        until(lambda: (info := client.info("q", task_id)) and info.state == "completed", "the task is completed")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    finally:
        worker.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert records(redis_client) == []
    worker.stop()  # has nothing to do any more


def test_a_blocking_worker_ends_by_a_signal_and_gives_the_programs_own_handlers_back(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    caught: list[int] = []

    def own_handler(signum: int, _: object) -> None:
        caught.append(signum)

    before = signal.signal(signal.SIGTERM, own_handler)
    try:
        TaskClient(redis_client).enqueue("q", b"1")
        worker = Worker(settings(redis_server), queues={"q": 1})
        worker.handle_default(lambda _: signal.raise_signal(signal.SIGTERM))
        worker.run_blocking()
        assert signal.getsignal(signal.SIGTERM) is own_handler
        assert caught == []
    finally:
        signal.signal(signal.SIGTERM, before)
    assert records(redis_client) == []


def test_a_worker_can_be_stopped_before_its_start_is_complete() -> None:
    environment = {
        "RUNQY_SERVER_URL": f"http://127.0.0.1:{free_port()}",
        "RUNQY_API_KEY": "key",
        "RUNQY_QUEUES": "q",
        "RUNQY_BOOTSTRAP_RETRY_DELAY": "10h",
    }
    worker = Worker(load_config(None, environ=environment))

    async def run() -> None:
        serving = asyncio.create_task(worker.serve())
        asyncio.get_running_loop().call_soon(worker.stop)
        await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(run())
    assert worker.status == "stopped"


def test_a_blocking_worker_raises_what_its_start_raises() -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = load_config(None, environ={"RUNQY_REDIS_ADDRESS": f"127.0.0.1:{free_port()}"}, server_required=False)
    worker = Worker(config, queues={"q": 1})
    worker.handle_default(lambda _: None)
    with pytest.raises(BrokerError, match="cannot be used"):
        worker.run_blocking()
    assert signal.getsignal(signal.SIGTERM) is before
