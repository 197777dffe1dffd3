"""Redis without some command: it is refused by its name, or replaced, and that is announced. Nothing in between."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from redis_kit import Cluster, acl_line
from runqy_agent.broker.access import IN_SCRIPTS
from runqy_agent.demo.client import TaskClient
from runqy_agent.demo.redis_server import RedisServer
from runqy_agent.errors import BrokerError
from runqy_agent.loops import trouble
from solo import serving
from stage import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runqy_agent import Worker

QUEUE = "q.default"
PASSWORD = "open-sesame-4711"
FALLBACKS = {
    "HELLO": "new tasks are looked for every 0.1 s instead",
    "CLIENT": "new tasks are looked for every 0.1 s instead",
    "BLPOP": "every idle worker of a fleet looks at each new task",
    "SUBSCRIBE": "running tasks cannot be cancelled",
}
"""What the status says where a command is missing."""
TOLD = {"INFO": "does not tell its version", "TIME": "clock"}
"""What the log says where it makes no difference, or where the host has a replacement."""
NEEDLESS = {"PING", "TYPE", "SCRIPT"}
"""What is only used where it is there: nothing changes without."""
NEEDED = {word.split()[0] for word in IN_SCRIPTS} | {"EVAL", "EVALSHA"}
ASKED = sorted(NEEDED | FALLBACKS.keys() | TOLD.keys() | NEEDLESS)


def complete_one(worker: Worker, client: redis.Redis) -> None:
    tasks = TaskClient(client)
    task_id = tasks.enqueue(QUEUE, b"{}")

    def completed() -> bool:
        info = tasks.info(QUEUE, task_id)
        return info is not None and info.state == "completed"

    until(completed, "a task is completed")
    assert worker.describe()["healthy"]


def assert_known(address: str, command: str, log: pytest.LogCaptureFixture, **environment: str) -> None:
    """The worker does not start and names the command; or it works and tells what it does without."""
    settings = {"RUNQY_REDIS_DB": "0", **environment}
    port = int(address.rpartition(":")[2])
    try:
        with serving(address, QUEUE, environment=settings) as worker:
            # Not sooner than it waits for tasks: then it has found out.
            complete_one(worker, redis.Redis(port=port, protocol=2))
            fallbacks = worker.describe()["redis"]["fallbacks"]
    except BrokerError as error:
        assert command in str(error)  # noqa: PT017  # whether there is one depends on the command
        assert command not in {*FALLBACKS, *TOLD, *NEEDLESS}
        return
    assert command in {*FALLBACKS, *TOLD, *NEEDLESS}
    announced = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    if command in FALLBACKS:
        assert len(fallbacks) == 1
        assert command in fallbacks[0]
        assert FALLBACKS[command] in fallbacks[0]
        assert announced == fallbacks  # once, and nothing else is wrong
    else:
        assert fallbacks == []
        assert [TOLD[command] in text for text in announced] == [True] if command in TOLD else announced == []


@pytest.mark.parametrize("command", ASKED)
def test_a_command_that_the_server_does_not_have_is_refused_or_replaced(
    command: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(arguments=["--rename-command", command, ""])
    try:
        if command in NEEDED:
            with pytest.raises(BrokerError, match=command), serving(server.address, QUEUE):
                pass
        else:
            assert_known(server.address, command, caplog)
    finally:
        server.close()


@pytest.fixture
def restricted(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """The documented user; the log of refusals is empty."""
    redis_client.execute_command(*acl_line(PASSWORD))
    redis_client.execute_command("ACL", "LOG", "RESET")
    yield redis_client
    redis_client.execute_command("ACL", "DELUSER", "runqy-agent")


@pytest.mark.parametrize("command", [command for command in ASKED if command != "HELLO"])  # nobody is refused that
def test_a_command_that_the_user_may_not_use_is_refused_or_replaced(
    command: str, redis_server: RedisServer, restricted: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    restricted.execute_command("ACL", "SETUSER", "runqy-agent", f"-{command.lower()}")
    user = {"RUNQY_REDIS_USERNAME": "runqy-agent", "RUNQY_REDIS_PASSWORD": PASSWORD}
    if command == "SUBSCRIBE":  # a mistake in the list of permissions, since the documented one has it
        with pytest.raises(BrokerError, match=command), serving(redis_server.address, QUEUE, environment=user):
            pass
    else:
        assert_known(redis_server.address, command, caplog, **user)


def test_the_documented_user_is_never_refused_anything(redis_server: RedisServer, restricted: redis.Redis) -> None:
    user = {"RUNQY_REDIS_USERNAME": "runqy-agent", "RUNQY_REDIS_PASSWORD": PASSWORD}
    with serving(redis_server.address, QUEUE, environment=user) as worker:
        complete_one(worker, restricted)
        assert worker.describe()["redis"]["fallbacks"] == []
    refused: Any = restricted.execute_command("ACL", "LOG")
    assert refused == []


def test_keys_of_other_queues_need_not_be_permitted(
    redis_server: RedisServer, restricted: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [
        f"~asynq:{part}" for part in (f"{{{QUEUE}}}*", "workers*", "servers*", "active-workers*", "t:*", "result:*")
    ]
    restricted.execute_command("ACL", "SETUSER", "runqy-agent", "resetkeys", *keys, "~asynq:queues")
    user = {"RUNQY_REDIS_USERNAME": "runqy-agent", "RUNQY_REDIS_PASSWORD": PASSWORD}
    with serving(redis_server.address, QUEUE, environment=user) as worker:
        complete_one(worker, restricted)
        (fallback,) = worker.describe()["redis"]["fallbacks"]
    assert "asynq:{watch}:" in fallback
    assert caplog.text.count(fallback) == 1
    with (
        pytest.raises(BrokerError, match=r"asynq:\{other\.q\}:probe") as refusal,
        serving(redis_server.address, QUEUE, "other.q", environment=user),
    ):
        pass
    assert QUEUE not in str(refusal.value)


def test_a_node_of_a_cluster_is_recognised_even_where_it_tells_nothing_of_itself() -> None:
    cluster = Cluster(["--rename-command", "INFO", ""])
    try:
        for node in cluster.nodes:
            with pytest.raises(BrokerError, match=r"set redis\.cluster: true"), serving(node.address, QUEUE):
                pass
    finally:
        cluster.close()


def test_where_redis_tells_of_no_changes_a_task_waits_for_the_next_look_and_no_longer() -> None:
    server = RedisServer(arguments=["--rename-command", "CLIENT", ""])
    try:
        with serving(server.address, *(f"q.{number}" for number in range(50)), QUEUE) as worker:
            for _ in range(5):
                complete_one(worker, server.client())
            client = server.client()
            before, begin = _commands(client), time.monotonic()
            until(lambda: time.monotonic() - begin > 3, "some looks were taken")
            rate = (_commands(client) - before) / (time.monotonic() - begin)
        assert rate <= 30
    finally:
        server.close()


def _commands(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_commands_processed"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Trouble lasts after a moment."""
    monkeypatch.setattr(trouble, "LASTING_SECONDS", 0.2)
    return caplog


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("lrem", f"processor of queue {QUEUE}"),
        ("subscribe", "canceller"),
        ("setex", "heartbeat"),
        ("pexpire", "waiter"),
    ],
)
def test_what_is_taken_away_later_is_told_until_it_is_back(
    command: str, part: str, redis_server: RedisServer, restricted: redis.Redis, impatient: pytest.LogCaptureFixture
) -> None:
    user = {"RUNQY_REDIS_USERNAME": "runqy-agent", "RUNQY_REDIS_PASSWORD": PASSWORD}
    with serving(redis_server.address, QUEUE, environment=user) as worker:
        complete_one(worker, restricted)
        restricted.execute_command("ACL", "SETUSER", "runqy-agent", f"-{command}")
        restricted.client_kill_filter(_type="pubsub")
        TaskClient(restricted).enqueue(QUEUE, b"{}")
        until(lambda: part in worker.describe()["redis"]["trouble"], f"{part} is in trouble")
        until(lambda: f"{part}: nothing has worked for" in impatient.text, "it is warned of")
        restricted.execute_command("ACL", "SETUSER", "runqy-agent", f"+{command}")
        until(lambda: part not in worker.describe()["redis"]["trouble"], f"{part} works again")
        complete_one(worker, restricted)
