"""Whatever the server answers, it is a registration that can be served, or a RegistrationError that says why not."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.mutation import altered, cases, mutated
from registration_kit import answer
from runqy_agent.errors import RegistrationError
from runqy_agent.process.environment import process_environment
from runqy_agent.process.vault_names import refused_names
from runqy_agent.registration import Registration, read_answer, route

SECRETS = {"password": "r3dis-hush-1", "vault": "vault-hush-22", "token": "token-hush-333"}
ANSWERS: list[dict[str, Any]] = [
    answer(),
    answer(
        redis={"addr": "[::1]:6379", "username": "u", "password": SECRETS["password"], "db": 3},
        vaults={"HF_TOKEN": SECRETS["vault"], "PATH": "/x"},
        git_token=SECRETS["token"],
        sub_queues=None,
        extra={"deep": [1, {"er": None}]},
    ),
    answer(queue={"name": "inference"}, sub_queues=[{"name": "inference.high", "priority": 9}], vaults=None),
]
BODIES = [json.dumps(each).encode() for each in ANSWERS]
BODIES += [b"<html>no</html>", b"", b"null", b"[]", b'{"error":"busy"}']
QUEUES = [["inference"], ["inference.high"], ["inference:high", "inference.low"]]


def check(registration: Registration, queues: list[str]) -> None:
    """Everything the worker does with an answer before it serves."""
    assert registration.queue.priority >= 1
    assert registration.sub_queues
    assert registration.deployment.startup_timeout_secs > 0
    assert registration.redis.db >= 0
    for secret in registration.secrets():
        assert isinstance(secret, str)
    shown = repr(registration)
    assert not [secret for secret in SECRETS.values() if secret in shown]
    refused = refused_names(registration.vaults)
    made = process_environment(None, {}, registration.vaults, inherited={"PATH": "/bin"})
    assert made["PATH"] == "/bin"
    assert not set(refused) - {"PATH"} & made.keys()
    try:
        routing = route(queues, [registration])
    except RegistrationError as refusal:
        check_refusal(refusal)
    else:
        assert routing.queues
        assert all(served.priority >= 1 and served.name for served in routing.queues)


def check_refusal(refusal: RegistrationError) -> None:
    """It says something, and no secret."""
    assert str(refusal)
    assert not [secret for secret in SECRETS.values() if secret in str(refusal)]


@cases(1 / 3)
@given(mutated(BODIES) | altered(ANSWERS), st.sampled_from(QUEUES))
def test_no_answer_is_more_than_refused(body: bytes, queues: list[str]) -> None:
    try:
        registration = read_answer(body)
    except RegistrationError as refusal:
        check_refusal(refusal)
        return
    check(registration, queues)
