from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from registration_kit import read
from runqy_agent.broker.settle import Policy
from runqy_agent.errors import RegistrationError
from runqy_agent.loops.route import Route, follow
from runqy_agent.registration import ServedQueue, parent_of, route
from set_clock import SetClock
from task_kit import NOW, taken

if TYPE_CHECKING:
    from runqy_agent.broker.settle import Settled
    from runqy_agent.process.runner import Runner


@pytest.mark.parametrize(
    ("name", "parent"),
    [("inference", "inference"), ("inference.high", "inference"), ("a:b", "a"), ("a:b.c", "a:b"), ("a.b:c", "a.b")],
)
def test_a_parent_is_what_stands_before_the_last_separator(name: str, parent: str) -> None:
    assert parent_of(name) == parent


def test_a_parent_listens_on_all_its_sub_queues() -> None:
    assert route(["inference"], [read()]).queues == [
        ServedQueue("inference:high", 9, "inference"),
        ServedQueue("inference:low", 3, "inference"),
    ]


@pytest.mark.parametrize("name", ["inference.high", "inference:high"])
def test_a_full_name_listens_on_that_one_in_the_spelling_of_the_server(name: str) -> None:
    routing = route([name], [read()])
    assert [queue.name for queue in routing.queues] == ["inference:high"]
    assert routing.warnings == []


def test_a_queue_named_twice_is_served_once() -> None:
    routing = route(["inference.low", "inference", "inference:low"], [read()])
    assert [queue.name for queue in routing.queues] == ["inference:low", "inference:high"]


def test_a_queue_the_server_does_not_know_is_named_in_a_warning() -> None:
    routing = route(["inference.high", "inference.huge"], [read()])
    assert [queue.name for queue in routing.queues] == ["inference:high"]
    assert routing.warnings == ["the server has no queue inference.huge; inference has inference:high, inference:low"]


def test_nothing_left_to_serve_names_what_there_is() -> None:
    with pytest.raises(RegistrationError, match=r"none of .* inference\.huge; it has inference: inference:high"):
        route(["inference.huge"], [read()])


def test_parents_keep_their_own_sub_queues() -> None:
    simple = read(queue={"name": "simple", "priority": 2}, sub_queues=None)
    routing = route(["inference.high", "simple"], [read(), simple])
    assert routing.queues == [ServedQueue("inference:high", 9, "inference"), ServedQueue("simple.default", 2, "simple")]


def test_answers_that_name_different_redis_servers_are_refused() -> None:
    other = read(redis={"addr": "other:1", "password": "0ther"})
    with pytest.raises(RegistrationError, match="differ in addr, password, use_tls") as caught:
        route(["inference", "simple"], [read(), other])
    assert "0ther" not in str(caught.value)


def test_a_sub_queue_that_is_taken_away_gives_nothing_and_keeps_what_is_to_be_written() -> None:
    runner = cast("Runner", SimpleNamespace(ready=True))
    known = {name: Route(name, 1, runner, Policy()) for name in ("a", "b")}
    on_the_way = cast("Settled", object())
    known["a"].settled.append(on_the_way)
    follow(known, [Route("b", 5, runner, Policy())])
    assert (known["a"].may_give(0), known["a"].settled) == (False, [on_the_way])
    assert (known["b"].may_give(0), known["b"].priority) == (True, 5)
    follow(known, [Route("a", 2, runner, Policy())])
    assert (known["a"].may_give(0), known["a"].priority, known["a"].settled) == (True, 2, [on_the_way])
    assert not known["b"].may_give(0)


@pytest.mark.parametrize(("waited", "own", "run"), [(59, None, True), (61, None, False), (61, 0, True), (9, 5, False)])
def test_a_task_that_has_waited_longer_than_it_or_the_worker_allows_is_not_run(
    waited: int, own: int | None, run: bool
) -> None:
    route = Route("a", 1, cast("Runner", None), Policy(), pending_timeout=60.0)
    task = taken(pending_since=(NOW - waited) * 10**9, pending_timeout=own)
    refusal = route.refusal(task, SetClock(NOW))
    assert (refusal is None) == run
    assert refusal is None or not refusal.retry
