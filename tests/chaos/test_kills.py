"""Kill -9 at random instants: no task is lost, and none is run again without need."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from chaos import accounting
from chaos.kit import FIGURES, Scene
from stage import Agent, until

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = 2000
KILLS = 20
CONCURRENCY = 10
SHARE = TASKS // KILLS

PHASES = ("starting", "picking up", "working", "draining")
"""Of a worker's life, in which it is killed; each of them as often as the others."""

RESTART_SECONDS = 2.0
"""Before the last start. One second would do for what the last kill left to be due in this worker's second round of
recovery, after a minute, and not in its third."""


class Course:
    """One worker after the other is started and killed. Each gets new tasks, and finds what the others have left."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.share = 0
        self.held: Counter[str] = Counter()
        self.start_seconds = 2.0

    def run(self) -> None:
        """All kills."""
        phases = [*PHASES] * (KILLS // len(PHASES))
        self.chance.shuffle(phases)
        for phase in phases:
            self.share = SHARE
            while not self._one(phase):
                pass  # it had drained before it could be killed; here comes another one
            self._enqueue(self.share)

    def _one(self, phase: str) -> bool:
        before = self.scene.active()
        agent = self.scene.agent()
        if phase == "starting":
            self._enqueue(self.share)
            time.sleep(self.chance.uniform(0, 1.2 * self.start_seconds))
        else:
            agent.wait_running()
            self.start_seconds = time.monotonic() - agent.started_at
            self._give_work(agent, phase, before)
        killed = self.scene.kill(agent, phase)
        self.held[phase] += len(self.scene.active() - before)
        return killed

    def _give_work(self, agent: Agent, phase: str, before: set[str]) -> None:
        if phase == "picking up":
            until(partial(self.scene.idle, before), "the worker has nothing to do")
            self._enqueue(min(self.share, self.chance.randint(1, 2 * CONCURRENCY)))
        else:
            goal = self.scene.processed() + self.chance.randint(1, SHARE // 2)
            self._enqueue(self.share)
            self.scene.until_processed(goal)
        time.sleep(self.chance.uniform(0, 0.05))
        if phase == "draining":
            agent.process.send_signal(signal.SIGTERM)
            time.sleep(self.chance.uniform(0, 0.2))

    def _enqueue(self, number: int) -> None:
        self.share -= number
        self.scene.enqueue_mixture(self.chance, number)


def test_killed_workers_lose_no_task_and_each_run_in_vain_is_explained_by_a_kill(
    scene: Scene, seed: int, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    scene.define_queue(CONCURRENCY)
    course = Course(scene, random.Random(seed))
    course.run()
    kills = len(scene.account.troubles)
    assert (len(scene.account.expected), kills) == (TASKS, KILLS)
    time.sleep(RESTART_SECONDS)
    last = scene.agent().wait_running()
    scene.until_finished()
    assert last.terminate() == 0

    total = scene.check()
    assert total.in_vain <= KILLS * CONCURRENCY
    assert total.recovered >= KILLS, f"too few workers were killed at work to prove anything: {total}"
    until(scene.no_record_left, "the records of killed workers have expired")
    accounting.check_no_phantoms(scene.stage)
    held = ", ".join(f"{number} while {phase}" for phase, number in course.held.items())
    record_property(
        FIGURES,
        f"seed {seed}: {TASKS} tasks, concurrency {CONCURRENCY}, {KILLS} kills: 0 lost, 0 stuck, {total.in_vain} runs "
        f"in vain (at most {KILLS * CONCURRENCY}), each explained by a kill; {total.recovered} recoveries; held when "
        f"killed: {held}; {time.monotonic() - began:.0f} s",
    )
