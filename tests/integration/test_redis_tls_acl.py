"""Redis that is encrypted under a private authority, and Redis that gives the worker only what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from redis_kit import MASTER, Certificates, Cluster, acl_line, start_sentinel
from runqy_agent.broker.access import IN_SCRIPTS
from runqy_agent.demo.redis_server import RedisServer, free_port
from runqy_agent.errors import ExitCode
from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUEUE = "inference.default"
PASSWORD = "open-sesame-4711"


class SecureRedis:
    """A server with a plain port for the tests, and one with TLS, which asks for client certificates."""

    def __init__(self, directory: Path) -> None:
        self.authority = Certificates(directory)
        self.stranger = Certificates(directory, "stranger")
        self.tls_port = free_port()
        self.server = RedisServer(arguments=self.authority.server_arguments(self.tls_port))
        certificate, key = self.authority.issue("client", "DNS:worker")
        self.settings: dict[str, Any] = {
            "redis_address": f"localhost:{self.tls_port}",
            "redis_tls": "true",
            "redis_ca_file": self.authority.ca,
            "redis_cert_file": certificate,
            "redis_key_file": key,
        }


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    secure = SecureRedis(tmp_path_factory.mktemp("certificates"))
    yield secure
    secure.server.close()


@pytest.fixture
def stage(secure: SecureRedis, tmp_path: Path, deployments: Path) -> Iterator[Stage]:
    with secure.server.client() as client:
        stage = Stage(tmp_path, deployments, client, secure.server.address)
        stage.queue("inference")
        yield stage
        stage.close()
        for key in client.scan_iter(count=1000):
            client.delete(key)


def assert_it_works(stage: Stage, **settings: Any) -> str:
    """Returns the log of a worker that has completed a task and ended."""
    agent = stage.agent(**settings).wait_running()
    task_ids = [stage.client.enqueue(QUEUE, payload) for payload in (b"{}", b'{"fail": "on purpose"}', b"{}")]
    states = [stage.until_state(QUEUE, task_id, "completed", "archived", "retry") for task_id in task_ids]
    assert states == ["completed", "archived", "completed"]
    assert agent.terminate() == 0
    return agent.log()


def refusal(stage: Stage, **settings: Any) -> str:
    """Returns the log of a worker that has ended at its start, because of Redis."""
    agent = stage.agent(bootstrap_retry_delay="0", **settings)
    assert agent.wait() == ExitCode.BROKER
    return agent.log()


# TLS.


def test_a_private_authority_and_a_client_certificate_are_enough(stage: Stage, secure: SecureRedis) -> None:
    log = assert_it_works(stage, **secure.settings)
    assert f"from Redis at localhost:{secure.tls_port}/0 (TLS)" in log


def test_a_server_under_another_authority_is_refused(stage: Stage, secure: SecureRedis) -> None:
    log = refusal(stage, **secure.settings | {"redis_ca_file": secure.stranger.ca})
    assert f"its certificate cannot be verified with redis.ca_file ({secure.stranger.ca})" in log
    settings = {name: value for name, value in secure.settings.items() if name != "redis_ca_file"}
    assert "its certificate cannot be verified with the authorities of this system" in refusal(stage, **settings)


def test_a_server_of_another_name_is_refused(stage: Stage, secure: SecureRedis) -> None:
    port = free_port()
    server = RedisServer(arguments=secure.authority.server_arguments(port, "DNS:elsewhere.example"))
    try:
        log = refusal(stage, **secure.settings | {"redis_address": f"localhost:{port}"})
        assert "the certificate is for another name" in log
    finally:
        server.close()


def test_without_a_client_certificate_the_server_refuses(stage: Stage, secure: SecureRedis) -> None:
    log = refusal(stage, **secure.settings | {"redis_cert_file": "", "redis_key_file": ""})
    # What the server does then reaches us as an alert or as a closed connection.
    assert "redis.cert_file" in log or "certificate required" in log


def test_a_plain_connection_to_a_port_with_tls_is_explained(stage: Stage, secure: SecureRedis) -> None:
    assert "if it speaks TLS there, set redis.tls: true" in refusal(stage, redis_address=f"localhost:{secure.tls_port}")


def test_files_that_hold_no_certificate_are_named(stage: Stage, secure: SecureRedis, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate", encoding="utf-8")
    log = refusal(stage, **secure.settings | {"redis_ca_file": wrong})
    assert "redis.ca_file, redis.cert_file or redis.key_file holds no PEM" in log


# Users.


def test_the_documented_user_can_do_what_the_worker_needs(stage: Stage, secure: SecureRedis, tmp_path: Path) -> None:
    stage.redis.execute_command(*acl_line(PASSWORD))
    password_file = tmp_path / "password"
    password_file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    settings = secure.settings | {"redis_username": "runqy-agent", "redis_password_file": password_file}
    log = assert_it_works(stage, **settings)
    assert "permission" not in log
    assert "WARNING" not in log
    assert PASSWORD not in log
    denied: Any = stage.redis.execute_command("ACL", "LOG")
    assert [entry for entry in denied if b"setinfo" not in repr(entry).encode()] == []


def test_the_documented_user_can_do_it_on_a_cluster_with_the_documented_addition(
    tmp_path: Path, deployments: Path
) -> None:
    cluster = Cluster()
    for node in cluster.nodes:
        node.client().execute_command(*acl_line(PASSWORD, "+cluster|slots +asking"))
    stage = Stage(tmp_path, deployments, cluster.client(), cluster.address)
    stage.queue("inference")
    try:
        settings = {"redis_cluster": "true", "redis_username": "runqy-agent", "redis_password": PASSWORD}
        agent = stage.agent(**settings).wait_running()
        assert agent.terminate() == 0
        assert "WARNING" not in agent.log()
        assert "permission" not in agent.log()
    finally:
        stage.close()
        cluster.close()


def test_a_wrong_password_or_user_is_refused_without_showing_it(stage: Stage, secure: SecureRedis) -> None:
    stage.redis.execute_command(*acl_line(PASSWORD))
    for user, password in (("runqy-agent", "wrong-password-0815"), ("nobody", PASSWORD)):
        address = secure.server.address
        log = refusal(stage, redis_address=address, redis_username=user, redis_password=password)
        assert f"Redis at {address}/0 refuses the password or user name" in log
        assert password not in log
    # The same when the server is the one that sends it.
    stage.server.redis |= {"username": "runqy-agent", "password": "sent-and-wrong-0815"}
    log = refusal(stage)
    assert "refuses the password or user name" in log
    assert "sent-and-wrong-0815" not in log


@pytest.mark.parametrize(
    ("less", "said"),
    [
        ("-zadd", "does not permit ZADD on asynq:{inference.default}:probe in a script"),
        ("resetkeys ~asynq:{*", "does not permit ZREM on asynq:servers"),
        ("resetchannels", "does not permit SUBSCRIBE to asynq:cancel"),
        ("-evalsha", "does not permit the running of scripts"),
    ],
)
def test_a_missing_permission_is_named(stage: Stage, secure: SecureRedis, less: str, said: str) -> None:
    stage.redis.execute_command(*acl_line(PASSWORD, less))
    settings = {"redis_address": secure.server.address, "redis_username": "runqy-agent", "redis_password": PASSWORD}
    log = refusal(stage, **settings)
    assert said in log
    assert "docs/configuration.md has the line for ACL SETUSER" in log
    assert PASSWORD not in log


def test_the_documentation_names_the_commands_that_are_checked() -> None:
    permitted = {word[1:] for word in acl_line(PASSWORD) if word.startswith("+")}
    assert permitted >= {command.split()[0].lower() for command in IN_SCRIPTS}


def test_sentinels_with_a_password_of_their_own(stage: Stage, secure: SecureRedis, tmp_path: Path) -> None:
    stage.redis.execute_command(*acl_line(PASSWORD, "+role"))
    sentinel = start_sentinel(secure.server.port, quorum=1, more="requirepass sentinels-own-1234")
    settings: dict[str, Any] = {
        "redis_sentinel_nodes": sentinel.address,
        "redis_sentinel_master_name": MASTER,
        "redis_username": "runqy-agent",
        "redis_password": PASSWORD,
    }
    try:
        log = refusal(stage, **settings, redis_sentinel_password="wrong-password-0815")
        assert "no sentinel says where the master is" in log
        assert "refuses the password or user name" in log
        assert "wrong-password-0815" not in log
        log = assert_it_works(stage, **settings, redis_sentinel_password="sentinels-own-1234")
        assert "sentinels-own-1234" not in log
        assert "WARNING" not in log
    finally:
        sentinel.close()
