from __future__ import annotations

import pytest

from runqy_agent import exponential_retry_delay, fixed_retry_delay, linear_retry_delay
from task_kit import taken

TASK = taken()


@pytest.mark.parametrize("retried", [0, 1, 2, 5, 10, 25])
def test_the_default_is_asynqs_formula(retried: int) -> None:
    delays = {exponential_retry_delay(retried, "", TASK) for _ in range(500)}
    allowed = {float(retried**4 + 15 + n * (retried + 1)) for n in range(30)}
    assert delays <= allowed
    assert len(delays) > 15


def test_a_fixed_delay_is_always_the_same() -> None:
    rule = fixed_retry_delay(2.5)
    assert [rule(retried, "", TASK) for retried in (0, 1, 50)] == [2.5, 2.5, 2.5]


def test_a_linear_delay_grows_by_the_same_step_up_to_the_longest() -> None:
    rule = linear_retry_delay(10, longest=25)
    assert [rule(retried, "", TASK) for retried in range(4)] == [10, 20, 25, 25]


@pytest.mark.parametrize("rule", [fixed_retry_delay, linear_retry_delay])
def test_a_negative_delay_is_refused(rule: type) -> None:
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        rule(-1)
