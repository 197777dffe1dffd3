"""The start, with many sub-queues and with a Redis in trouble; and connections that the server closes."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from flaky_proxy import FlakyProxy
from monitor import Monitor
from runqy_agent.broker import keys
from runqy_agent.broker.check import _unsuitable
from runqy_agent.broker.connection import RedisAddress
from runqy_agent.demo.client import TaskClient
from runqy_agent.demo.redis_server import RedisServer, free_port
from runqy_agent.errors import BrokerError
from runqy_agent.loops import canceller
from solo import serving
from stage import until

if TYPE_CHECKING:
    import redis

QUEUE = "q.default"


def names(number: int) -> list[str]:
    return [f"q.n{at}" for at in range(number)]


def completed(tasks: TaskClient, queue: str, task_id: str) -> bool:
    info = tasks.info(queue, task_id)
    return info is not None and info.state == "completed"


def test_no_command_of_the_check_blocks_and_nothing_is_left_behind(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    with Monitor(redis_client) as monitor, serving(redis_server.address, *names(100)):
        until(lambda: any(command.name == "watch" for command in monitor.commands()), "it waits")
        probes = [command for command in monitor.commands() if command.name == "probe"]
        waits = [at for at, command in enumerate(monitor.commands()) if command.name == "BLPOP"]
        commands = monitor.commands()
        assert len(probes) == 101
        assert {keys.queue_keys(queue).probe for queue in names(100)} <= {c.text.split()[3] for c in probes}
        (wait,) = waits
        assert commands[wait - 1].name == "RPUSH", "it waits for what is there"
        assert commands[wait - 1].text.split()[1] == commands[wait].text.split()[1]
        beats = [at for at, command in enumerate(commands) if command.name == "record"]
        assert beats[0] < wait or beats[0] < commands.index(probes[-1]), "it is visible before it is checked"
    assert [key for key in redis_client.keys("*") if b"probe" in key] == []


@pytest.mark.parametrize("sub_queues", [1, 100])
def test_a_worker_holds_six_connections_at_most(
    sub_queues: int, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    def connections() -> int:
        clients: Any = redis_client.client_list()
        return sum(client["name"] == "runqy-agent" for client in clients)

    with serving(redis_server.address, *names(sub_queues), environment={"RUNQY_CONCURRENCY": "64"}):
        tasks, most = TaskClient(redis_client), 0
        for at in range(50):
            queue = names(sub_queues)[at % sub_queues]
            task_id = tasks.enqueue(queue, b"{}")
            until(partial(completed, tasks, queue, task_id), "the task is completed")
            most = max(most, connections())
        with serving(redis_server.address, *names(sub_queues)), serving(redis_server.address, *names(sub_queues)):
            time.sleep(1)  # the third waits to be woken
            assert connections() <= 3 * 6
        assert most <= 6


def test_a_redis_that_resets_the_first_connections_is_tried_again(redis_server: RedisServer) -> None:
    proxy = FlakyProxy(redis_server.port)
    proxy.turns_away = True

    def let_in() -> None:
        until(lambda: proxy.connections >= 2, "it was turned away")
        proxy.turns_away = False

    thread = threading.Thread(target=let_in)
    thread.start()
    try:
        with serving(proxy.address, QUEUE, environment={"RUNQY_BOOTSTRAP_RETRIES": "1000"}):
            pass
    finally:
        thread.join()
        proxy.close()


def test_a_redis_that_is_not_there_is_tried_as_often_as_configured(caplog: pytest.LogCaptureFixture) -> None:
    address = f"127.0.0.1:{free_port()}"
    retries = {"RUNQY_BOOTSTRAP_RETRIES": "4"}
    with pytest.raises(BrokerError, match="gave up after 4 attempts"), serving(address, QUEUE, environment=retries):
        pass
    assert caplog.text.count("retrying in 10ms") == 3


def test_a_wrong_password_is_final_at_once(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(arguments=["--requirepass", "right"])
    try:
        wrong = {"RUNQY_REDIS_PASSWORD": "wrong"}
        with pytest.raises(BrokerError, match="the password"), serving(server.address, QUEUE, environment=wrong):
            pass
    finally:
        server.close()
    assert "retrying" not in caplog.text


def test_connections_that_the_server_closes_while_they_are_idle_are_renewed_without_a_word(
    redis_server: RedisServer, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tasks = TaskClient(redis_client)
    with serving(redis_server.address, QUEUE):
        first = tasks.enqueue(QUEUE, b"{}")
        until(lambda: completed(tasks, QUEUE, first), "a task is completed")
        for _ in range(3):
            time.sleep(0.6)  # it is idle
            redis_client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.1)  # the ends of the connections arrive
            caplog.clear()
            task_id = tasks.enqueue(QUEUE, b"{}")
            until(partial(completed, tasks, QUEUE, task_id), "the next one is completed")
            assert [record.getMessage() for record in caplog.records if record.name.endswith("processor")] == []
            assert "does not answer" not in caplog.text


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"redis_version": "6.0.16", "redis_mode": "standalone"}, "is version 6.0.16; the agent needs Redis 6.2"),
        ({"redis_version": "5.0.7", "redis_mode": "standalone"}, "is version 5.0.7; the agent needs Redis 6.2"),
        ({"redis_version": "6.2.0", "redis_mode": "standalone"}, ""),
        ({"redis_version": "10.0.1", "redis_mode": "standalone"}, ""),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0", "server_mode": "standalone"}, ""),
        ({"redis_version": "7.2.4", "server_mode": "sentinel"}, "is a sentinel"),
        ({"redis_version": "7.2.4", "redis_mode": "sentinel"}, "is a sentinel"),
        ({"redis_version": "7.2.4", "server_mode": "cluster"}, "is a node of a Redis Cluster: set redis.cluster: true"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster"}, "is a node of a Redis Cluster: set redis.cluster: true"),
    ],
)
def test_what_a_server_says_of_itself_decides_whether_it_serves(info: dict[str, Any], said: str) -> None:
    found = _unsuitable(info, RedisAddress("r"))
    assert said in found
    assert bool(found) == bool(said)


def test_a_subscription_that_died_silently_is_noticed_and_made_again(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(canceller, "PING_SECONDS", 0.3)
    monkeypatch.setattr(canceller, "PONG_SECONDS", 0.3)
    proxy = FlakyProxy(redis_server.port)
    try:
        with serving(proxy.address, QUEUE):
            until(lambda: redis_client.publish(keys.CANCEL, "x"), "the worker has subscribed")
            proxy.swallow()
            until(lambda: "no answer to a ping for 0.3 s" in caplog.text, "the silence is noticed")
            redis_client.client_kill_filter(_type="pubsub")
            proxy.release()
            until(lambda: redis_client.publish(keys.CANCEL, "x"), "the worker has subscribed again")
    finally:
        proxy.close()
