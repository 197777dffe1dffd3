"""Whose time runs while a process has several tasks, and who is to blame when it crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy_agent.process.turns import Turns
from task_kit import taken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.broker.message import TakenTask


def given(number: int, turns: Turns, at: float = 100.0, timeout: int = 5) -> list[TakenTask]:
    """Tasks that were written to a process together."""
    tasks = [taken(f"t{each}", timeout=timeout) for each in range(number)]
    for task in tasks:
        task.limit(0, 0.0)
        turns.written(task, at)
    return tasks


def began(tasks: Sequence[TakenTask]) -> list[float]:
    return [task.began_at for task in tasks]


def test_in_order_each_begins_when_the_one_before_it_is_answered() -> None:
    turns = Turns()
    tasks = given(3, turns)
    assert began(tasks) == [100.0, 0.0, 0.0]
    turns.answered(tasks[0], 104.0)
    assert began(tasks) == [100.0, 104.0, 0.0]
    turns.answered(tasks[1], 108.0)
    assert began(tasks) == [100.0, 104.0, 108.0]
    turns.answered(tasks[2], 112.0)
    (later,) = given(1, turns, at=200.0)
    assert later.began_at == 200.0
    assert not turns.side_by_side


def test_the_timeout_of_a_task_that_waits_does_not_run() -> None:
    turns = Turns()
    first, second = given(2, turns)
    assert (first.deadline, second.deadline) == (105.0, float("inf"))
    turns.answered(first, 104.0)
    assert second.deadline == 109.0


def test_out_of_order_all_have_begun_when_they_were_written() -> None:
    turns = Turns()
    tasks = given(2, turns, at=100.0) + given(2, turns, at=101.0)
    turns.answered(tasks[2], 103.0)
    assert turns.side_by_side
    assert began(tasks) == [100.0, 100.0, 101.0, 101.0]
    assert [task.deadline for task in tasks] == [105.0, 105.0, 106.0, 106.0]
    (later,) = given(1, turns, at=104.0)
    assert (later.began_at, later.deadline) == (104.0, 109.0)


def test_one_whose_turn_has_come_keeps_its_beginning_when_others_turn_out_to_run_beside_it() -> None:
    turns = Turns()
    tasks = given(4, turns, at=100.0)
    turns.answered(tasks[0], 102.0)
    turns.answered(tasks[3], 103.0)
    assert began(tasks) == [100.0, 102.0, 100.0, 100.0]


def test_a_process_stays_one_that_runs_them_side_by_side_though_it_answers_in_order_again() -> None:
    turns = Turns()
    tasks = given(3, turns)
    for task in (tasks[1], tasks[0], tasks[2]):
        turns.answered(task, 103.0)
    later = given(2, turns, at=200.0)
    assert turns.side_by_side
    assert began(later) == [200.0, 200.0]


def test_it_is_at_the_first_in_order_and_at_all_side_by_side() -> None:
    turns = Turns()
    tasks = given(3, turns)
    assert [turns.is_at(task) for task in tasks] == [True, False, False]
    turns.answered(tasks[0], 101.0)
    assert [turns.is_at(task) for task in tasks[1:]] == [True, False]
    turns.answered(tasks[2], 102.0)
    assert turns.is_at(tasks[1])


def test_the_oldest_that_is_not_answered_is_to_blame() -> None:
    turns = Turns()
    tasks = given(3, turns)
    assert turns.guilty(tasks, []) == [tasks[0]]
    turns.answered(tasks[0], 101.0)
    assert turns.guilty(tasks[1:], []) == [tasks[1]]
    turns.answered(tasks[2], 102.0)
    assert turns.guilty(tasks[1:2], []) == [tasks[1]]


def test_nobody_is_to_blame_while_the_process_is_at_one_that_is_over() -> None:
    turns = Turns()
    tasks = given(2, turns)
    assert turns.guilty(tasks[1:], [tasks[0]]) == []
    assert turns.guilty(tasks[:1], [tasks[1]]) == [tasks[0]]  # what is over stood behind it
    beside = given(1, turns, at=110.0)
    turns.answered(beside[0], 111.0)
    assert turns.side_by_side
    assert turns.guilty(tasks[1:], [tasks[0]]) == []
    late = given(1, turns, at=120.0)
    assert turns.guilty(tasks[1:], late) == [tasks[1]]


def test_one_that_was_not_written_is_never_to_blame() -> None:
    turns = Turns()
    assert turns.guilty([taken("waits")], []) == []
    (written,) = given(1, turns)
    assert turns.guilty([taken("waits"), written], []) == [written]
