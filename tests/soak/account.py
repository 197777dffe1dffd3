"""Where every task of the soak has ended, how often it was run and why, and what nothing explains."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos import journal
from runqy_agent.broker import keys
from soak.load import ENDS, QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import redis

    from chaos.journal import Step
    from soak.crew import Crew
    from soak.load import Load

PRESCRIBED = {
    "fails": "meant to fail for good",
    "retry": "meant to be tried again",
    "crash": "crashed the process 1 time: ",
    "hang": "context deadline exceeded",
}
"""How the errors begin that a kind is made to have."""
CRASHED = "crashed the process "
CANCELLED = "context canceled"


@dataclass
class Run:
    """The author's process worked on a task, to its end or not."""

    process: int
    agent: int
    ended: bool = False


@dataclass
class Verdict:
    """What has become of the tasks. Each of the lists but the last holds what must not be.

    Attributes:
        lost: tasks that are in no state, or in one that is not theirs.
        stuck: tasks that have not ended.
        twice: runs of which nothing explains why there was another one.
        innocent: failures that nothing explains.
        runs: how often each kind was run.
        failures: how often which failure was explained by what.
    """

    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    innocent: list[str] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> list[str]:
        """Everything that must not be, one line each."""
        kinds = {"lost": self.lost, "stuck": self.stuck, "run twice": self.twice, "innocent": self.innocent}
        return [f"{kind}: {line}" for kind, lines in kinds.items() for line in lines]


class Account:
    """Holds what was done against what has become of it."""

    def __init__(self, client: redis.Redis, load: Load, crew: Crew, runs: Path) -> None:
        self._redis = client
        self._load = load
        self._crew = crew
        self._runs = _read_runs(runs)
        self._blamed: Counter[str] = Counter()
        self.verdict = Verdict()

    def draw_up(self) -> Verdict:
        """Look at every task, after the last one has ended or was given up."""
        steps = {task_id: made for queue in QUEUES for task_id, made in journal.read(self._redis, queue).items()}
        journal.check_order(steps)
        for task_id, kind in self._load.kinds.items():
            made = steps.pop(task_id, [])
            self._check_end(task_id, kind, made)
            self._check_failures(task_id, kind, made)
            self._check_runs(task_id, made)
            self.verdict.runs[kind] += sum(
                len(self._runs.get((task_id, attempt), ())) for attempt in range(made[-1].retried + 1 if made else 0)
            )
        assert steps == {}, f"tasks that nobody has enqueued: {sorted(steps)}"
        killed = len(self._crew.killed_processes)
        if self._blamed["process killed"] > killed:
            self.verdict.innocent.append(f"{self._blamed['process killed']} tasks blamed for {killed} killed processes")
        return self.verdict

    def _check_end(self, task_id: str, kind: str, made: Sequence[Step]) -> None:
        expected = ENDS.get(kind, "completed")
        state = made[-1].state if made else "never enqueued"
        names = keys.queue_keys(self._load.queue_of[task_id])
        ended = state in {"completed", "archived", journal.GONE}
        if not ended:
            self.verdict.stuck.append(f"{task_id} ({kind}): {_story(made)}")
        found: Any = 0
        if state in {"pending", "active"}:
            found = self._redis.lpos(getattr(names, state), task_id)
        elif made and state != journal.GONE:
            found = self._redis.zscore(getattr(names, state), task_id)
        if found is None or (ended and state != expected):
            self.verdict.lost.append(f"{task_id} ({kind}): is {state}, expected {expected}: {_story(made)}")

    def _check_failures(self, task_id: str, kind: str, made: Sequence[Step]) -> None:
        seen: Counter[str] = Counter()
        for step in made:
            if step.error:
                attempt = step.retried - (step.state == "retry")
                reason = self._reason(task_id, kind, attempt, step)
                seen[reason] += 1
                if not reason or (reason == "cancelled" and seen[reason] > self._load.cancels[task_id]):
                    agents = [run.agent for run in self._runs.get((task_id, attempt), ())]
                    self.verdict.innocent.append(f"{task_id} ({kind}), agents {agents}: {step.error!r}: {_story(made)}")
        self._blamed += seen
        self.verdict.failures += seen

    def _reason(self, task_id: str, kind: str, attempt: int, step: Step) -> str:
        """What explains a failure; empty: nothing does."""
        runs = self._runs.get((task_id, attempt), [])
        if step.recovered:
            # Of a worker that was killed; killed before the process noted anything, nobody can say which one.
            by_kill = any(run.agent in self._crew.killed for run in runs) if runs else bool(self._crew.killed)
            return "agent killed" if by_kill else ""
        if kind in PRESCRIBED and step.error.startswith(PRESCRIBED[kind]) and (kind != "crash" or attempt == 0):
            return "prescribed"
        if step.error.startswith(CANCELLED) and kind == "cancelled":
            return "cancelled"
        if step.error.startswith(CRASHED) and (not runs or runs[-1].process in self._crew.killed_processes):
            return "process killed"
        return ""

    def _check_runs(self, task_id: str, made: Sequence[Step]) -> None:
        """Each run but the one whose outcome was written has something that explains it."""
        takes: dict[int, list[journal.Take]] = defaultdict(list)
        for take in journal.takes(list(made)):
            takes[take.attempt].append(take)
        for attempt, held in takes.items():
            runs = self._runs.get((task_id, attempt), [])
            last = held[-1].end
            written = last is not None and last.state != "pending" and not last.recovered
            in_vain = runs[:-1] if written else runs
            unexplained = [run for run in in_vain if not self._explains(run)]
            if unexplained or len(runs) > len(held):
                self.verdict.twice.append(f"{task_id}, attempt {attempt}: {runs}: {_story(made)}")

    def _explains(self, run: Run) -> bool:
        crew = self._crew
        return run.agent in crew.ended | crew.killed or run.process in crew.killed_processes


def _read_runs(path: Path) -> Mapping[tuple[str, int], list[Run]]:
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else []:
        what, task_id, attempt, process, agent = line.split()
        made = runs[task_id, int(attempt)]
        if what == "start":
            made.append(Run(int(process), int(agent)))
        else:
            next(run for run in reversed(made) if run.process == int(process)).ended = True
    return runs


def _story(made: Iterable[Step]) -> str:
    return " → ".join(f"{step.state}({step.retried})" for step in made)
