from __future__ import annotations

from typing import Any

import pytest

from registration_kit import answer, read
from runqy_agent.broker.asynq_pb2 import ServerInfo
from runqy_agent.config import Secret
from runqy_agent.errors import RegistrationError
from runqy_agent.registration import SubQueue


def refused(**changes: Any) -> str:
    with pytest.raises(RegistrationError) as caught:
        read(**changes)
    return str(caught.value)


def test_the_answer_of_the_documentation_is_understood() -> None:
    registration = read()
    assert registration.redis.host_and_port() == ("redis.example.com", 6379)
    assert registration.redis.password == Secret("r3dis")
    assert registration.redis.use_tls is True
    assert registration.sub_queues == [SubQueue("inference:high", 9), SubQueue("inference:low", 3)]
    assert registration.deployment.env_vars == {"MODEL_PATH": "/models/gpt"}
    assert registration.git_token is None


def test_null_and_absent_mean_empty_and_unknown_fields_are_ignored() -> None:
    registration = read(
        redis={"addr": "r", "username": None, "password": None, "db": None, "use_tls": None, "new": [1]},
        sub_queues=None,
        deployment={
            "git_url": "u", "branch": "b", "startup_cmd": "c",
            "code_path": None, "env_vars": None, "startup_timeout_secs": 0, "mode": "", "redis_storage": None,
        },
        vaults=None,
        git_token="",
        new={"a": 1},
    )  # fmt: skip
    assert registration.redis.host_and_port() == ("r", 6379)
    assert registration.redis.password == Secret("")
    assert registration.deployment.startup_timeout_secs == 300
    assert registration.deployment.mode == "long_running"
    assert registration.deployment.env_vars == registration.vaults == {}
    assert registration.git_token is None


def test_without_sub_queues_there_is_a_default_one_with_the_priority_of_the_queue() -> None:
    (sub,) = read(sub_queues=[], queue={"name": "inference", "priority": 6}).sub_queues
    assert (sub.name, sub.priority) == ("inference.default", 6)
    (sub,) = read(sub_queues=[], queue={"name": "inference", "priority": -1}).sub_queues
    assert sub.priority == 1


def test_a_priority_is_at_least_one() -> None:
    assert read(sub_queues=[{"name": "a.b", "priority": 0}, {"name": "a.c"}]).sub_queues[0].priority == 1


def _with(section: str, **changes: Any) -> dict[str, Any]:
    return {section: answer()[section] | changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"redis": None}, "the server's answer lacks redis.addr"),
        (_with("redis", addr=None), "lacks redis.addr"),
        (_with("redis", addr=""), "lacks redis.addr"),
        (_with("queue", name=""), "lacks queue.name"),
        (_with("deployment", git_url=None), "lacks deployment.git_url"),
        (_with("deployment", branch=""), "lacks deployment.branch"),
        (_with("deployment", startup_cmd=None), "lacks deployment.startup_cmd"),
        ({"sub_queues": [{"name": "a.b"}, {"priority": 1}]}, "lacks sub_queues[1].name"),
        ({"redis": "r:1"}, "the server's answer has a string instead of an object at redis"),
        (_with("redis", addr=5), "has a number instead of a string at redis.addr"),
        (_with("redis", db="0"), "has a string instead of an integer at redis.db"),
        (_with("redis", db=1.5), "has a number instead of an integer at redis.db"),
        (_with("redis", db=True), "has a boolean instead of an integer at redis.db"),
        (_with("redis", db=-1), "has a negative number at redis.db"),
        (_with("redis", use_tls=1), "has a number instead of true or false at redis.use_tls"),
        (_with("redis", addr="h:99999"), "has a malformed address (found the port"),
        (_with("redis", addr="h:"), "at redis.addr"),
        (_with("redis", addr="redis://u:r3dis@h"), "has a malformed address (found a URL; allowed is host:port)"),
        ({"sub_queues": {}}, "has an object instead of a list at sub_queues"),
        ({"sub_queues": ["a"]}, "has a string instead of an object at sub_queues[0]"),
        (_with("deployment", env_vars={"A": "x", "N": 5}), "a number instead of a string at deployment.env_vars.N"),
        (_with("deployment", mode="sometimes"), "has an unknown mode (known are long_running and one_shot)"),
        (_with("deployment", startup_timeout_secs=-1), "has a negative number at deployment.startup_timeout_secs"),
        ({"vaults": {"TOKEN": True}}, "has a boolean instead of a string at vaults.TOKEN"),
        ({"vaults": {"TOKEN": None}}, "has null instead of a string at vaults.TOKEN"),
        ({"git_token": 12345}, "has a number instead of a string at git_token"),
    ],
)
def test_what_is_missing_or_ill_typed_is_named_by_its_path(changes: dict[str, Any], said: str) -> None:
    text = refused(**changes)
    assert said in text
    assert "r3dis" not in text
    assert "12345" not in text
    assert text.count("; it ") == 0, "one mistake is one complaint"


def test_all_that_is_missing_is_named_at_once() -> None:
    text = refused(redis={}, queue={}, deployment={"branch": "b"})
    for path in ("redis.addr", "queue.name", "deployment.git_url", "deployment.startup_cmd"):
        assert f"lacks {path}" in text


@pytest.mark.parametrize(
    ("addr", "host_and_port"),
    [
        ("h", ("h", 6379)),
        ("h:7000", ("h", 7000)),
        ("[::1]:7000", ("::1", 7000)),
        ("[::1]", ("::1", 6379)),
        ("::1", ("::1", 6379)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
    ],
)
def test_addresses_are_those_of_go(addr: str, host_and_port: tuple[str, int]) -> None:
    assert read(redis={"addr": addr}).redis.host_and_port() == host_and_port


def test_a_registration_does_not_show_what_is_secret() -> None:
    shown = repr(read(vaults={"TOKEN": "v4ult"}, git_token="g1t", **_with("deployment", env_vars={"A": "env-s3cret"})))
    for secret in ("v4ult", "g1t", "env-s3cret", "r3dis"):
        assert secret not in shown


@pytest.mark.parametrize("priority", [2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1, 0, -1, -(2**63)])
def test_a_priority_is_one_that_the_heartbeat_can_tell(priority: int) -> None:
    sub_queues = [{"name": "a.b", "priority": priority}]
    registration = read(sub_queues=sub_queues, queue={"name": "inference", "priority": priority})
    for found in (registration.sub_queues[0].priority, registration.queue.priority):
        assert found == min(max(priority, 1), 2**31 - 1)
        ServerInfo(queues={"a.b": found}).SerializeToString()


@pytest.mark.parametrize("priority", [1.5, 3.0, True, "9", [], {}, 1e300])
def test_a_priority_that_is_no_whole_number_is_named(priority: object) -> None:
    said = refused(sub_queues=[{"name": "a.b", "priority": priority}])
    assert "instead of an integer at sub_queues[0].priority" in said


@pytest.mark.parametrize(("seconds", "found"), [(1, 1), (604_800, 604_800), (604_801, 604_800), (2**63 - 1, 604_800)])
def test_a_start_takes_a_week_at_most(seconds: int, found: int) -> None:
    registration = read(**_with("deployment", startup_timeout_secs=seconds))
    assert registration.deployment.startup_timeout_secs == found
