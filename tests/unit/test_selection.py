"""Which queue is served next."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from runqy_agent.loops.selection import StrictPriority, WeightedShares


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(1)


def served(shares: WeightedShares, slots_at_once: list[int], eligible: list[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for slots in slots_at_once:
        plan = shares.plan(slots, eligible)
        assert sum(plan.values()) == slots
        total.update(plan)
    return total


@pytest.mark.parametrize("at_once", [1, 7, 64, 4000])
def test_weights_9_and_3_are_served_3_to_1_within_10_percent(at_once: int) -> None:
    slots = [at_once] * (4000 // at_once)
    total = served(WeightedShares([("high", 9), ("low", 3)]), slots, ["high", "low"])
    assert total["high"] / total["low"] == pytest.approx(3, rel=0.1)


def test_slots_are_spread_evenly_and_not_in_runs() -> None:
    shares = WeightedShares([("high", 9), ("low", 3)])
    order = [next(iter(shares.plan(1, ["high", "low"]))) for _ in range(400)]
    assert all(order[at : at + 5].count("low") >= 1 for at in range(396))


def test_a_thousand_to_one_does_not_starve_the_one() -> None:
    shares = WeightedShares([("high", 1000), ("low", 1)])
    total = served(shares, [1] * 3003, ["high", "low"])
    assert total["low"] in {2, 3, 4}


def test_five_queues_get_their_shares() -> None:
    weights = {"a": 1, "b": 2, "c": 3, "d": 6, "e": 12}
    total = served(WeightedShares(list(weights.items())), [5] * 480, list(weights))
    for name, weight in weights.items():
        assert total[name] == pytest.approx(100 * weight, rel=0.1)


def test_a_queue_that_was_empty_does_not_come_back_with_a_claim_to_everything() -> None:
    shares = WeightedShares([("high", 9), ("low", 3), ("other", 3)])
    served(shares, [1] * 10_000, ["high", "other"])
    total = served(shares, [1] * 40, ["high", "low"])
    assert total["low"] <= 12


def test_a_queue_alone_gets_everything_and_pays_nothing_for_it_later() -> None:
    shares = WeightedShares([("high", 9), ("low", 3)])
    assert shares.plan(10_000, ["low"]) == {"low": 10_000}
    assert served(shares, [1] * 40, ["high", "low"])["low"] >= 9


def test_workers_of_a_fleet_do_not_all_begin_with_the_same_queue() -> None:
    equal = [(name, 1) for name in "abcd"]
    firsts = Counter(next(iter(WeightedShares(equal).plan(1, "abcd"))) for _ in range(200))
    assert set(firsts) == set("abcd")


@pytest.mark.parametrize("selector", [WeightedShares([("a", 2), ("b", 1)]), StrictPriority([("a", 2), ("b", 1)])])
def test_nothing_to_share_or_nobody_to_share_it_makes_no_plan(selector: WeightedShares | StrictPriority) -> None:
    assert selector.plan(5, []) == {}
    assert selector.plan(5, ["unknown"]) == {}
    assert selector.plan(0, ["a", "b"]) == {}
    assert selector.plan(0, ["a"]) == {}


def test_strict_priority_serves_the_highest_that_has_tasks_and_no_other() -> None:
    strict = StrictPriority([("low", 1), ("high", 9), ("middle", 5), ("also-high", 9)])
    assert strict.plan(4, ["low", "middle", "high", "also-high"]) == {"high": 4}
    assert strict.plan(4, {"low", "middle"}) == {"middle": 4}
    assert strict.plan(4, {"low"}) == {"low": 4}
