"""Clocks that are wrong, or are set while tasks run: nothing is counted, run twice or lost."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from chaos.kit import FIGURES, Scene
from host_clock import HostClock, RedisClock, libfaketime
from runqy_agent.loops import recoverer
from stage import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stage import Agent

CONCURRENCY = 5
HOUR, MINUTES = 3600, 300
TURN = 12.0
"""Seconds in which every loop has had its turn that looks at a running task: deadlines, leases, heartbeat."""


class Gated:
    """Tasks that last until they are told to end, and so outlive their first lease, deadlines of an old clock, and
    several rounds of every recoverer."""

    def __init__(self, scene: Scene, directory: Path, number: int = 2 * CONCURRENCY) -> None:
        self._scene = scene
        self._gate = directory / "gate"
        self.ids = scene.enqueue({"how": "ok", "gate": str(self._gate)} for _ in range(number))

    def until_running(self) -> None:
        """Wait until all of them are."""
        until(lambda: {run.task_id for run in self._scene.runs()} == set(self.ids), "all are running")

    def open(self) -> None:
        """Let them end."""
        self._gate.with_name(f"{self._gate.name}.0").touch()


@pytest.fixture
def clocks(tmp_path: Path) -> list[HostClock]:
    if libfaketime() is None:
        pytest.skip("there is no libfaketime: apt-get install faketime")
    return [HostClock(tmp_path / "clock-0"), HostClock(tmp_path / "clock-1")]


def let_time_pass(agents: list[Agent], seconds: float) -> None:
    """Nothing is to happen, and so there is nothing but time to wait for."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, "time passes", seconds + 60)
    assert [agent.process.poll() for agent in agents] == [None] * len(agents)


def check_nothing_happened(
    scene: Scene, agents: list[Agent], record_property: Callable[[str, object], None], what: str
) -> None:
    """Every task was run once, and nothing was counted but the failures that tasks meant."""
    scene.until_finished()
    for agent in agents:
        assert agent.terminate() == 0
    total = scene.check()
    assert (total.in_vain, total.recovered) == (0, 0)
    for agent in agents:
        assert not re.search("lost task|lease expired|deadline exceeded|lost its worker|put back", agent.log())
    record_property(FIGURES, f"{what}: {total.runs} runs, none in vain, none recovered")


def test_workers_whose_clocks_are_minutes_off_leave_each_others_tasks_alone(
    scene: Scene, tmp_path: Path, clocks: list[HostClock], record_property: Callable[[str, object], None]
) -> None:
    scene.define_queue(CONCURRENCY)
    agents = []
    for clock, ahead in zip(clocks, (MINUTES, -MINUTES), strict=True):
        clock.set(ahead)
        agents.append(scene.agent(environment=clock.environment).wait_running())
    tasks = Gated(scene, tmp_path)
    tasks.until_running()
    assert {run.agent for run in scene.runs()} == {agent.pid for agent in agents}
    for agent, side in zip(agents, ("ahead of", "behind"), strict=True):
        assert re.search(rf"WARNING .*the clock of this host is 300\.\d s {side} that of Redis", agent.log())
        assert agent.log().count("the clock of this host is") == 1
        assert abs(abs(float(agent.record()["clock_offset"])) - MINUTES) < 5
        assert abs(float(agent.record()["last_beat"]) - time.time()) < 60  # Redis' clock is ours
    let_time_pass(agents, recoverer.INTERVAL + recoverer.GRACE)  # each has looked for tasks of dead workers
    tasks.open()
    check_nothing_happened(scene, agents, record_property, "clocks 5 min ahead and behind")


def test_a_clock_that_is_set_while_tasks_run_does_them_no_harm(
    scene: Scene, tmp_path: Path, clocks: list[HostClock], record_property: Callable[[str, object], None]
) -> None:
    scene.define_queue(CONCURRENCY)
    agents = [scene.agent(environment=clock.environment).wait_running() for clock in clocks]
    tasks = Gated(scene, tmp_path)
    tasks.until_running()
    for ahead in (HOUR, -HOUR, 0, -HOUR, HOUR):
        clocks[0].set(ahead)
        until(lambda: abs(float(agents[0].record()["clock_offset"]) - ahead) < 5, "the worker knows")  # noqa: B023
        let_time_pass(agents, TURN)
    log = agents[0].log()
    for warning in (f"{HOUR:.1f} s ahead of", f"{HOUR:.1f} s behind"):
        assert len(re.findall(rf"the clock of this host is {warning[:3]}\d+\.\d s {warning.split(' s ')[1]}", log)) == 2
    tasks.open()
    check_nothing_happened(scene, agents, record_property, "a clock set by an hour, five times")


@pytest.mark.parametrize("set_to", [HOUR, -HOUR], ids=["forward", "back"])
def test_the_clock_of_redis_may_be_set_while_tasks_run(
    scene: Scene, tmp_path: Path, set_to: int, record_property: Callable[[str, object], None]
) -> None:
    clock = RedisClock(tmp_path / "clock", scene.stage.redis)
    scene.define_queue(CONCURRENCY)
    agents = [scene.agent(environment=clock.environment).wait_running() for _ in range(2)]
    tasks = Gated(scene, tmp_path)
    tasks.until_running()
    clock.set(set_to)
    for agent in agents:
        until(lambda: re.search(r"the clock of Redis was set 3\d+\.\d s", agent.log()), "the worker knows")  # noqa: B023
    let_time_pass(agents, 2 * recoverer.INTERVAL + recoverer.GRACE)  # each has looked for tasks of dead workers
    leases = scene.leases()
    assert set(leases) == set(tasks.ids)
    assert all(ends > time.time() + set_to for ends in leases.values())
    tasks.open()
    check_nothing_happened(scene, agents, record_property, f"Redis' clock set by {set_to} s")


def test_workers_of_a_redis_whose_clock_is_wrong_work_by_it(
    scene: Scene, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    clock = RedisClock(tmp_path / "clock", scene.stage.redis)
    clock.set(-HOUR)
    scene.define_queue(CONCURRENCY)
    agent = scene.agent(environment=clock.environment).wait_running()
    ids = scene.enqueue({"how": "ok"} for _ in range(CONCURRENCY))
    scene.until_finished()
    completed_at = [scene.info(task_id).message.completed_at for task_id in ids]
    assert all(abs(at - (time.time() - HOUR)) < 120 for at in completed_at)
    assert abs(int(agent.record()["last_beat"]) - (time.time() - HOUR)) < 120
    check_nothing_happened(scene, [agent], record_property, "Redis an hour behind")
