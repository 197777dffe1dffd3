"""Where every task ended, how often each was run, and why more often than once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos import journal
from runqy_agent.broker import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from chaos.journal import Step
    from stage import Stage

PARTS = ("pending", "active", "lease", "scheduled", "retry")
"""Where a task is while it has not ended."""


@dataclass
class Run:
    """The author's process worked on a task.

    Attributes:
        attempt: the task's retry count.
        agent: process id of the agent.
        start, end: unix seconds; an end of 0: it did not come to its end.
    """

    task_id: str
    attempt: int
    agent: int
    start: float
    end: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """Something that we did, which explains runs in vain.

    Attributes:
        what: for people.
        until: unix seconds when it was over; a run that began later has nothing to do with it.
        agent: process id of the agent that was hit; None: all of them.
    """

    what: str
    until: float
    agent: int | None = None

    def explains(self, run: Run) -> bool:
        """Whether the outcome of this run may have been lost by it."""
        return self.agent in {None, run.agent} and run.start <= self.until


@dataclass(frozen=True)
class Sum:
    """What an account comes to.

    Attributes:
        runs: of the author's code.
        in_vain: runs whose outcome was not written.
        recovered: how often a task was taken from a worker that had let its lease end.
    """

    runs: int
    in_vain: int
    recovered: int


def read_runs(path: Path) -> list[Run]:
    """All runs so far, in the order of their starts."""
    runs: list[Run] = []
    open_runs: dict[tuple[str, str, str], Run] = {}
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else []:
        what, task_id, attempt, process, agent, when = line.split()
        if what == "start":
            run = Run(task_id, int(attempt), int(agent), float(when))
            runs.append(run)
            open_runs[task_id, attempt, process] = run
        else:
            open_runs[task_id, attempt, process].end = float(when)
    return runs


def unfinished(stage: Stage, queue: str) -> int:
    """How many tasks have not ended."""
    names = keys.queue_keys(queue)
    with stage.redis.pipeline(transaction=True) as pipeline:
        for part in PARTS:
            (pipeline.llen if part in {"pending", "active"} else pipeline.zcard)(getattr(names, part))
        return sum(pipeline.execute())


@dataclass
class Account:
    """What was done, to be held against what has become of it.

    Attributes:
        stage: whose Redis.
        queue: the sub-queue.
        concurrency: how many outcomes one trouble may lose.
        expected: the id of every task that was enqueued, and the state it is to end in.
        troubles: what was done to workers and Redis.
    """

    stage: Stage
    queue: str
    concurrency: int = 10
    expected: dict[str, str] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)

    def check(self, runs: Sequence[Run]) -> Sum:
        """Check everything, after the last task has ended.

        Args:
            runs: every run of the author's code.
        """
        steps = journal.read(self.stage.redis, self.queue)
        self._check_places()
        journal.check_order(steps)
        assert {task_id: made[-1].state for task_id, made in steps.items()} == self.expected
        self._check_counts(steps)
        in_vain = _runs_in_vain(steps, runs)
        self._check_explained(in_vain)
        recovered = sum(step.recovered for made in steps.values() for step in made)
        most = len(self.troubles) * self.concurrency
        assert recovered <= most, f"{recovered} tasks were taken from their worker, {most} at most can be explained"
        return Sum(len(runs), len(in_vain), recovered)

    def _check_places(self) -> None:
        stage, queue, expected = self.stage, self.queue, self.expected
        for part in PARTS:
            assert stage.ids(queue, part) == [], part
        for state in ("completed", "archived"):
            found = stage.ids(queue, state)  # a sorted set: each id once
            wanted = {task_id for task_id, ends in expected.items() if ends == state}
            assert set(found) == wanted, f"{state}: lost {wanted - set(found)}, unexpected {set(found) - wanted}"
        kept = {task_id for task_id in expected if stage.state(queue, task_id)}
        assert kept == {task_id for task_id, ends in expected.items() if ends != journal.GONE}
        locks = list(stage.redis.scan_iter(f"asynq:{{{queue}}}:unique:*"))
        assert locks == []

    def _check_counts(self, steps: Mapping[str, list[Step]]) -> None:
        """The counters, and the counts in the messages, tell of exactly the outcomes that there were."""
        stage, queue = self.stage, self.queue
        ends: Counter[str] = Counter()
        for task_id, made in steps.items():
            ends += Counter(step.state for step in made)
            info = stage.client.info(queue, task_id)
            if info is not None:
                assert info.message.retried == sum(step.state == "retry" for step in made), (task_id, made)
        failed = ends["retry"] + ends["archived"]
        processed = failed + ends["completed"] + ends[journal.GONE]
        assert (stage.number(queue, "processed"), stage.number(queue, "failed")) == (processed, failed)
        names = keys.queue_keys(queue)
        for total, name in ((processed, names.processed), (failed, names.failed)):
            days: Any = [stage.redis.get(key) for key in stage.redis.scan_iter(f"{name}:*")]
            assert sum(map(int, days)) == total

    def _check_explained(self, in_vain: Sequence[Run]) -> None:
        """Each run in vain has a trouble that explains it, and no trouble explains more than the concurrency."""
        lost: Counter[Trouble] = Counter()
        for run in in_vain:
            # The earliest that can be: later ones had nothing to do with it.
            explanation = min(
                (trouble for trouble in self.troubles if trouble.explains(run)), key=lambda it: it.until, default=None
            )
            assert explanation is not None, f"nothing explains why the outcome of {run} was not written"
            lost[explanation] += 1
        for trouble, number in lost.items():
            assert number <= self.concurrency, f"{number} runs were in vain by: {trouble}"


def check_no_phantoms(stage: Stage) -> None:
    """Nothing in Redis says that a worker is there, to anybody who reads it."""
    assert list(stage.redis.scan_iter("asynq:workers:*")) == []
    assert list(stage.redis.scan_iter("asynq:active-workers:*")) == []
    assert list(stage.redis.scan_iter("asynq:servers:*")) == []
    for name in (keys.WORKERS, keys.SERVERS):  # readers pass over what has expired
        listed: Any = stage.redis.zrangebyscore(name, time.time(), "+inf")
        assert listed == []


def _runs_in_vain(steps: Mapping[str, list[Step]], runs: Sequence[Run]) -> list[Run]:
    """The runs whose outcome was not written."""
    by_attempt: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        by_attempt[run.task_id, run.attempt].append(run)
    in_vain: list[Run] = []
    for task_id, made in steps.items():
        held: dict[int, list[journal.Take]] = defaultdict(list)
        for take in journal.takes(made):
            held[take.attempt].append(take)
        for attempt, takes in held.items():
            found = by_attempt.pop((task_id, attempt), [])
            end = takes[-1].end
            assert end is not None
            assert len(found) <= len(takes), f"task {task_id}, attempt {attempt}: {found} for {takes}"
            if not end.recovered:  # what is written is the outcome of the last run
                assert found, f"task {task_id}, attempt {attempt}: {end} without a run"
                last = found.pop()
                assert last.end, f"task {task_id}, attempt {attempt}: {end}, but its run did not end"
            in_vain += found
    assert not by_attempt, f"runs of tasks that nobody held: {by_attempt}"
    return in_vain
