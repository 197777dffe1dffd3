"""How many no-op tasks a second pass through Redis, worker and supervised process together.

    python benchmarks/throughput.py [--tasks 20000] [--runs 5] [--concurrency 1,10,64] [--process sdk|plain]

Everything is real and on this machine: a redis-server, the agent as its own process, and a process of the task
author that answers every task at once, written with the SDK from PyPI. Tasks are put into two paused sub-queues
(weights 9:3, retention as the runqy server sets it), and time runs from the first finished task to the last.
The table gives the median of the runs, with the lowest and the highest, and what a task costs each of the three in
CPU time and in round trips to Redis (one exchange, however many scripts it holds).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from rig import Rig
from runqy_agent.broker import keys
from runqy_agent.demo.client import DAY, message

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

QUEUES = {"bench.high": 9, "bench.low": 3}
NO_OP = {
    "sdk": (
        "from runqy_python import run, task\n\n\n"
        "@task\ndef work(payload):\n    return None\n\n\n"
        "if __name__ == '__main__':\n    run()\n"
    ),
    "plain": (
        "import json, sys\n"
        'print(\'{"status": "ready"}\', flush=True)\n'
        "for line in sys.stdin:\n"
        '    print(\'{"task_id": "%s", "result": null}\' % json.loads(line)[\'task_id\'], flush=True)\n'
    ),
}


class Measurement(NamedTuple):
    """One run. CPU in microseconds a task."""

    rate: float
    round_trips: float
    worker_cpu: float
    process_cpu: float
    redis_cpu: float


class Bench(Rig):
    """Measures throughput."""

    def __init__(self, directory: Path, process: str) -> None:
        requirements = "runqy-python\n" if process == "sdk" else ""
        super().__init__(directory, {"main.py": NO_OP[process], "requirements.txt": requirements}, QUEUES)

    def run(self, tasks: int, concurrency: int) -> Measurement:
        """Start a worker, let it do all tasks, stop it."""
        self.client.redis.flushdb()  # a server of this benchmark's own
        for queue in QUEUES:
            self.client.redis.set(keys.queue_keys(queue).paused, 1)
        agent = self.start(concurrency)
        try:
            self._enqueue(tasks)
            return self._measure(agent, tasks)
        finally:
            agent.terminate()
            agent.wait()

    def _enqueue(self, tasks: int) -> None:
        names, weights = list(QUEUES), list(QUEUES.values())
        mix = [name for name, weight in zip(names, weights, strict=True) for _ in range(weight)]
        for start in range(0, tasks, 1000):
            batch = range(start, min(start + 1000, tasks))
            self.client.enqueue_all([message(mix[n % len(mix)], b'{"n": %d}' % n, retention=DAY) for n in batch])

    def _measure(self, agent: subprocess.Popen[bytes], tasks: int) -> Measurement:
        worker = psutil.Process(agent.pid)
        parts = [[worker], worker.children(recursive=True), [psutil.Process(self.redis.pid)]]
        before = [_cpu(part) for part in parts]
        calls = self._network_reads()
        self.client.redis.delete(*(keys.queue_keys(queue).paused for queue in QUEUES))
        self.until(lambda: self._processed() > 0, agent)
        begun, first = time.perf_counter(), self._processed()
        self.until(lambda: self._processed() >= tasks, agent)
        seconds = time.perf_counter() - begun
        costs = [1e6 * (_cpu(part) - old) / tasks for part, old in zip(parts, before, strict=True)]
        reads = self._network_reads() - calls - self._own_reads
        return Measurement((tasks - first) / seconds, reads / tasks, *costs)

    def _network_reads(self) -> int:
        info: Any = self.client.redis.info("stats")
        self._own_reads = 0
        return int(info["total_reads_processed"])

    def _processed(self) -> int:
        self._own_reads += 1
        values: Any = self.client.redis.mget([keys.queue_keys(queue).processed for queue in QUEUES])
        return sum(int(value or 0) for value in values)


def _cpu(processes: Sequence[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks in each run")
    parser.add_argument("--runs", type=int, default=5, help="runs for each concurrency")
    parser.add_argument("--concurrency", default="1,10,64", help="worker.concurrency, separated by commas")
    parser.add_argument("--process", choices=sorted(NO_OP), default="sdk", help="who answers the tasks")
    options = parser.parse_args()
    levels = [int(level) for level in options.concurrency.split(",")]
    with tempfile.TemporaryDirectory(prefix="runqy-bench-") as directory:
        bench = Bench(Path(directory), options.process)
        try:
            bench.run(min(1000, options.tasks), levels[0])  # builds the environment, warms everything up
            print(f"{options.tasks} tasks a run, {options.runs} runs, process: {options.process}, {bench.redis.kind}")
            print("concurrency   tasks/s (lowest to highest)   round trips/task   CPU µs/task: worker  process  Redis")
            for level in levels:
                runs = [bench.run(options.tasks, level) for _ in range(options.runs)]
                rates = [run.rate for run in runs]
                median = Measurement(*(statistics.median(column) for column in zip(*runs, strict=True)))
                speed = f"{median.rate:7.0f} ({min(rates):6.0f} to {max(rates):6.0f})"
                cpu = f"{median.worker_cpu:19.1f}  {median.process_cpu:7.1f}  {median.redis_cpu:5.1f}"
                print(f"{level:11d}   {speed}    {median.round_trips:16.3f}   {cpu}", flush=True)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
