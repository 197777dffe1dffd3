"""How much starting processes ahead is worth in one-shot mode.

    python benchmarks/one_shot.py [--tasks 40] [--runs 5] [--concurrency 2] [--start-up 0.5] [--prestart 0,1,2,4]

Everything is real and on this machine: a redis-server, the agent as its own process, and for each task a process that
uses the SDK from PyPI and sleeps for a while in ``@load``, as one does that loads a model from a disk. Two ways of
sending: *burst*, all tasks at once; *paced*, the next pair when the one before has ended and the spares are ready, as
when tasks come with pauses. The table gives the median of the runs, with the lowest and the highest, and the ratio to
the first number of spares. In a burst spares save the start-up of the first tasks only: start-up is then what limits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig import PARENT, Rig
from runqy_agent.broker import keys

if TYPE_CHECKING:
    import subprocess

QUEUE = f"{PARENT}.default"
AUTHOR = """
import time
from runqy_python import load, run_once, task


@load
def setup():
    time.sleep(START_UP)


@task
def work(payload):
    return payload


if __name__ == "__main__":
    run_once()
"""


class Bench(Rig):
    """Measures one-shot tasks."""

    def __init__(self, directory: Path, start_up: float) -> None:
        code = AUTHOR.replace("START_UP", repr(start_up))
        files = {"main.py": code, "requirements.txt": "runqy-python\n"}
        super().__init__(directory, files, {QUEUE: 1}, mode="one_shot")
        self._pause = 1.5 * start_up + 0.5

    def run(self, tasks: int, concurrency: int, prestart: int) -> tuple[float, float]:
        """Tasks a second in a burst, and seconds from sending a batch to its end when paced."""
        self.client.redis.flushdb()  # a server of this benchmark's own
        agent = self.start(concurrency, f"one_shot.prestart={prestart}")
        try:
            paced = self._paced(agent, max(2, tasks // 10), concurrency)
            done = self._processed()
            begun = time.perf_counter()
            for number in range(tasks):
                self.client.enqueue(QUEUE, b"%d" % number)
            self.until(lambda: self._processed() >= done + tasks, agent)
            return tasks / (time.perf_counter() - begun), paced
        finally:
            agent.terminate()
            agent.wait()

    def _paced(self, agent: subprocess.Popen[bytes], batches: int, concurrency: int) -> float:
        times = []
        for _ in range(batches):
            time.sleep(self._pause)  # the spares become ready
            done = self._processed()
            begun = time.perf_counter()
            for number in range(concurrency):
                self.client.enqueue(QUEUE, b"%d" % number)
            self.until(lambda: self._processed() >= done + concurrency, agent)  # noqa: B023 - used at once
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def _processed(self) -> int:
        value: Any = self.client.redis.get(keys.queue_keys(QUEUE).processed)
        return int(value or 0)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=40, help="tasks in each run")
    parser.add_argument("--runs", type=int, default=5, help="runs for each number of spares")
    parser.add_argument("--concurrency", type=int, default=2, help="worker.concurrency")
    parser.add_argument("--start-up", type=float, default=0.5, help="seconds that the process takes to load")
    parser.add_argument("--prestart", default="0,1,2,4", help="one_shot.prestart, separated by commas")
    options = parser.parse_args()
    spares = [int(number) for number in options.prestart.split(",")]
    with tempfile.TemporaryDirectory(prefix="runqy-bench-") as directory:
        bench = Bench(Path(directory), options.start_up)
        try:
            bench.run(2, 1, 0)  # builds the environment
            runs: dict[int, list[tuple[float, float]]] = {number: [] for number in spares}
            for _ in range(options.runs):
                for number in spares:  # in turn: the machine's speed drifts
                    runs[number].append(bench.run(options.tasks, options.concurrency, number))
            print(f"{options.tasks} tasks a run, {options.runs} runs, start-up {options.start_up:g} s, ", end="")
            print(f"concurrency {options.concurrency}, {bench.redis.kind}")
            print(
                "prestart   burst: tasks/s (lowest to highest)   ratio   paced: s a batch (lowest to highest)   ratio"
            )
            first = [statistics.median(column) for column in zip(*runs[spares[0]], strict=True)]
            for number in spares:
                rates, times = zip(*runs[number], strict=True)
                rate, seconds = statistics.median(rates), statistics.median(times)
                burst = f"{rate:8.2f} ({min(rates):5.2f} to {max(rates):5.2f})          {rate / first[0]:8.2f}"
                paced = f"{seconds:10.3f} ({min(times):.3f} to {max(times):.3f})       {first[1] / seconds:12.2f}"
                print(f"{number:8d}   {burst}   {paced}", flush=True)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
