"""Where Redis is, what its errors mean to a connection, and what the sentinels are asked."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from runqy_agent.broker import check, scripts
from runqy_agent.broker.access import IN_FLAT_SCRIPTS, IN_SCRIPTS
from runqy_agent.broker.address import RedisAddress, resolve
from runqy_agent.broker.broker import _is_refusal
from runqy_agent.broker.connection import Clients
from runqy_agent.broker.steering import Steering, is_demotion
from runqy_agent.config import RedisSettings, Secret, SentinelSettings
from runqy_agent.errors import BrokerError
from runqy_agent.registration.answer import ServerRedis

if TYPE_CHECKING:
    from runqy_agent.demo.redis_server import RedisServer

SERVER = ServerRedis(addr="redis.example.com:6380", username="u", password=Secret("s3cret"), db=2, use_tls=True)


def test_the_server_says_where_redis_is_and_the_configuration_overrides_it() -> None:
    found = resolve(SERVER, RedisSettings())
    assert (found.host, found.port, found.db, found.username, found.tls) == ("redis.example.com", 6380, 2, "u", True)
    found = resolve(SERVER, RedisSettings(address="other", db=0, tls=False, username="v"))
    assert (found.host, found.port, found.db, found.username, found.tls) == ("other", 6379, 0, "v", False)
    assert found.password == Secret("s3cret")
    assert "s3cret" not in f"{found} {found!r}"


def test_sentinels_replace_the_address_of_the_server() -> None:
    sentinel = SentinelSettings(master_name="tasks", nodes=["a", "[::1]:5"], password=Secret("hush"))
    found = resolve(SERVER, RedisSettings(sentinel=sentinel))
    assert found.sentinel is not None
    assert found.sentinel.nodes == (("a", 26379), ("::1", 5))
    assert str(found) == 'master "tasks" of the sentinels a:26379, [::1]:5 (TLS)'
    assert (found.db, found.username, found.is_cluster) == (2, "u", False)
    assert "hush" not in f"{found} {found!r}"


def test_a_cluster_has_several_seeds() -> None:
    found = resolve(ServerRedis(addr="a:1, b"), RedisSettings(cluster=True))
    assert found.seeds == (("a", 1), ("b", 6379))
    assert found.is_cluster
    assert str(found) == "cluster a:1, b:6379"


@pytest.mark.parametrize(
    ("server", "settings", "said"),
    [
        (None, RedisSettings(), "no Redis address"),
        (ServerRedis(addr="a:x"), RedisSettings(), "malformed"),
        (ServerRedis(addr="a,b"), RedisSettings(), "is it a cluster? set redis.cluster: true"),
        (SERVER, RedisSettings(cluster=True), "the server names the database 2"),
        (None, RedisSettings(sentinel=SentinelSettings(master_name="m")), "needs master_name and nodes"),
        (None, RedisSettings(sentinel=SentinelSettings(master_name="m", nodes=["a:0"])), "a sentinel is malformed"),
    ],
)
def test_what_says_nothing_useful_is_an_error(server: ServerRedis | None, settings: RedisSettings, said: str) -> None:
    with pytest.raises(BrokerError, match=said.replace("?", r"\?")):
        resolve(server, settings)


@pytest.mark.parametrize(
    ("error", "demotion"),
    [
        (ReadOnlyError("You can't write against a read only replica."), True),
        (MasterDownError("Link with MASTER is down"), True),
        (ResponseError("Error running script (call to f_0): @user_script:1: -READONLY You can't write"), True),
        (ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> re"), True),
        (ResponseError("UNBLOCKED client unblocked via CLIENT UNBLOCK"), False),
        (ResponseError("WRONGTYPE Operation against a key"), False),
        (NoPermissionError("no"), False),
    ],
)
def test_a_server_that_is_no_longer_the_master_is_recognised(error: ResponseError, *, demotion: bool) -> None:
    assert is_demotion(error) is demotion


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ResponseError("WRONGTYPE"), True),
        (NoPermissionError("no"), True),
        (AskError("1 127.0.0.1:1"), True),
        (ClusterDownError("The cluster is down"), False),
        (MasterDownError("down"), False),
        (BusyLoadingError("loading"), False),
        (TimeoutError(), False),
    ],
)
def test_a_refusal_concerns_one_command(error: Exception, *, refusal: bool) -> None:
    assert _is_refusal(error) is refusal


class Recorder:
    """A guide whose answers are set, and what was left because of them."""

    checks_role = True

    def __init__(self, *answers: tuple[str, int]) -> None:
        self.answers = list(answers)
        self.left: list[bool] = []

    async def locate(self) -> tuple[str, int]:
        return self.answers.pop(0)

    async def leave(self, everything: bool) -> None:
        self.left.append(everything)


def test_all_connections_are_left_once_when_the_master_has_changed() -> None:
    async def run() -> Recorder:
        guide = Recorder(("a", 1), ("a", 1), ("b", 1), ("b", 1))
        steering = Steering(guide, guide.leave)
        for _ in range(4):
            await steering.locate()
        await steering.moved(("b", 1))
        await steering.moved(("a", 1))
        return guide

    assert asyncio.run(run()).left == [True, True]


def test_a_demoted_server_is_left_by_those_who_would_not_notice_and_not_all_the_time() -> None:
    async def run() -> Recorder:
        guide = Recorder()
        steering = Steering(None, guide.leave)
        assert await steering.locate() is None
        for _ in range(10):
            await steering.demoted()
        return guide

    assert asyncio.run(run()).left == [False]


@pytest.mark.parametrize(("layout", "probed"), [("asynq", IN_SCRIPTS), ("flat", IN_FLAT_SCRIPTS)])
def test_the_check_of_permissions_covers_every_command_of_the_scripts(layout: Any, probed: tuple[str, ...]) -> None:
    texts = [script.text for script in scripts.all_scripts(layout) if script.name != "probe"]
    used = {command for text in texts for command in re.findall(r"redis\.p?call\('([A-Za-z]+)'", text)}
    assert "ZADD" in used
    # Without TIME the worker does with the host's clock, and says so.
    assert used - {"TIME"} <= {command.split()[0] for command in probed}


def test_an_address_hides_its_secrets_and_asks_for_verified_certificates() -> None:
    address = RedisAddress("h", tls=True, ca_file="/ca.pem", password=Secret("hush"))
    assert address.tls_options() == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": "/ca.pem",
        "ssl_certfile": None,
        "ssl_keyfile": None,
    }
    assert RedisAddress("h").tls_options() == {}


@pytest.mark.parametrize("turns", range(4))
def test_a_connection_that_is_closed_while_something_is_sent_on_it_is_lost_and_nothing_worse(
    redis_server: RedisServer, turns: int
) -> None:
    async def close_meanwhile() -> None:
        clients = Clients()
        client = clients.open(RedisAddress("127.0.0.1", redis_server.port))
        connection = await client.connection_pool.get_connection()
        sending = asyncio.create_task(connection.send_packed_command([b"PING\r\n"], check_health=False))
        for _ in range(turns):
            await asyncio.sleep(0)
        await connection.disconnect(nowait=True)
        try:
            with suppress(RedisConnectionError):
                await sending
        finally:
            await clients.close()

    asyncio.run(close_meanwhile())


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"redis_version": "6.0.16", "redis_mode": "standalone"}, "is version 6.0.16; the agent needs Redis 6.2"),
        ({"redis_version": "2.8.24"}, "is version 2.8.24"),
        ({"redis_version": "6.2.0", "redis_mode": "standalone"}, ""),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0", "server_mode": "standalone"}, ""),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0", "server_mode": "sentinel"}, "is a sentinel"),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0", "server_mode": "cluster"}, "set redis.cluster: true"),
        ({"redis_version": "7.2.4", "redis_mode": "sentinel"}, "is a sentinel"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster"}, "set redis.cluster: true"),
        (
            {"redis_version": "7.2.4", "role": "slave", "slave_read_only": 1, "master_host": "m", "master_port": 1},
            "is a read-only replica of m:1",
        ),
        ({"redis_version": "7.2.4", "role": "slave", "slave_read_only": 0}, ""),
    ],
)
def test_a_server_that_cannot_serve_is_told_by_what_it_says_of_itself(info: dict[str, Any], said: str) -> None:
    problem = check._unsuitable(info, RedisAddress("127.0.0.1", 6379))
    assert (said in problem) if said else problem == ""


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (RedisConnectionError("refused"), True),
        (ClusterDownError("down"), True),
        (ReadOnlyError("a replica"), True),
        (ResponseError("ERR unknown"), False),
        (NoPermissionError("NOPERM"), False),
        (AuthenticationError("WRONGPASS"), False),
    ],
)
def test_trouble_at_start_is_tried_again_only_if_it_may_pass(error: Exception, retryable: bool) -> None:
    assert check.explained(error, RedisAddress("127.0.0.1", 6379)).retryable == retryable
