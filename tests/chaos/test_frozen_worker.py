"""A worker that was frozen for longer than its leases: nothing it still has in hand is written."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from chaos.kit import FIGURES, QUEUE, RECOVERY_PATIENCE, Scene
from stage import Agent, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONCURRENCY = 5


class Gated:
    """Tasks that last until they are told to end: each attempt of each task has its gate."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene = scene
        self.gates = [directory / f"gate-{number}" for number in range(CONCURRENCY)]
        self.ids = scene.enqueue({"how": "ok", "gate": str(gate)} for gate in self.gates)

    def open(self, attempt: int, first: int = 0, last: int = CONCURRENCY) -> None:
        """Let this attempt of some tasks end."""
        for gate in self.gates[first:last]:
            gate.with_name(f"{gate.name}.{attempt}").touch()

    def until_running(self, agent: Agent) -> None:
        """Wait until an agent's process is running all of them."""
        until(lambda: self._runs(agent, ended=False) == CONCURRENCY, "all are running", RECOVERY_PATIENCE)

    def until_ended(self, agent: Agent) -> None:
        """Wait until an agent's process has come to the end of all of them."""
        until(lambda: self._runs(agent, ended=True) == CONCURRENCY, "all have ended")

    def _runs(self, agent: Agent, *, ended: bool) -> int:
        return sum(run.agent == agent.pid and bool(run.end) == ended for run in self.scene.runs())

    def until_given_up(self, agent: Agent) -> None:
        """Wait until an agent has said that each of them is lost."""
        for task_id in self.ids:
            until(partial(self._says_lost, agent, task_id), f"{task_id} is given up")

    @staticmethod
    def _says_lost(agent: Agent, task_id: str) -> bool:
        return f"lost task {task_id}" in agent.log()


def start_holding(scene: Scene, directory: Path) -> tuple[Agent, Gated]:
    """An agent that holds tasks and does not end them."""
    scene.define_queue(CONCURRENCY)
    agent = scene.agent().wait_running()
    tasks = Gated(scene, directory)
    tasks.until_running(agent)
    return agent, tasks


def check_account(scene: Scene, agent: Agent, record_property: Callable[[str, object], None]) -> None:
    """Every task was completed once, at its second attempt, and failed once: with its lease."""
    total = scene.check()
    assert (total.in_vain, total.recovered) == (CONCURRENCY, CONCURRENCY)
    assert scene.stage.number(QUEUE, "failed") == CONCURRENCY
    assert scene.processed() == 2 * CONCURRENCY
    # The worker has forgotten them and goes on with others.
    (late,) = scene.enqueue([{"how": "ok"}])
    scene.stage.until_state(QUEUE, late, "completed")
    assert agent.terminate() == 0
    record_property(FIGURES, f"{CONCURRENCY} tasks held: each completed once, failed once, given up with a message")


@pytest.mark.parametrize("whole", [True, False], ids=["with its process", "the agent alone"])
def test_a_frozen_worker_writes_nothing_for_tasks_that_another_took_over(
    scene: Scene, tmp_path: Path, whole: bool, record_property: Callable[[str, object], None]
) -> None:
    frozen, tasks = start_holding(scene, tmp_path)
    scene.freeze(frozen, whole=whole)
    if not whole:
        tasks.open(attempt=0)
        tasks.until_ended(frozen)  # its answers wait in the pipe
    other = scene.agent().wait_running()
    if whole:
        # Thawed while the other one has completed some and is working on the rest.
        tasks.until_running(other)
        tasks.open(attempt=1, last=2)
        scene.until_processed(CONCURRENCY + 2)
    else:
        # Thawed while they wait for being tried again.
        until(lambda: len(scene.stage.ids(QUEUE, "retry")) == CONCURRENCY, "all are taken over", RECOVERY_PATIENCE)
    scene.thaw(frozen)
    tasks.open(attempt=0, last=3)  # some of its runs end now, others hang
    tasks.until_given_up(frozen)
    tasks.open(attempt=1)
    scene.until_finished()
    assert other.terminate() == 0
    check_account(scene, frozen, record_property)


@pytest.mark.parametrize("whole", [True, False], ids=["with its process", "the agent alone"])
def test_a_worker_frozen_beyond_its_leases_writes_nothing_though_nobody_took_over(
    scene: Scene, tmp_path: Path, whole: bool, record_property: Callable[[str, object], None]
) -> None:
    agent, tasks = start_holding(scene, tmp_path)
    scene.freeze(agent, whole=whole)
    tasks.open(attempt=0)
    if not whole:
        tasks.until_ended(agent)
    last_lease = scene.last_lease()
    until(lambda: time.time() > last_lease + 5, "the leases are over, the grace is not")
    assert scene.active() == set(tasks.ids)
    scene.thaw(agent)
    tasks.until_given_up(agent)
    tasks.open(attempt=1)
    scene.until_finished()
    check_account(scene, agent, record_property)
