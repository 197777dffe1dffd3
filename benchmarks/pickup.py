"""How long an idle worker takes to bring a new task to the process of the task author.

    python benchmarks/pickup.py [--tasks 500] [--concurrency 1,64] [--sub-queues 2,100]

Everything is real and on this machine: a redis-server, the agent as its own process, and a process that answers each
task with the time at which it had read its line. One task at a time is put into an empty queue, in one transaction as
asynq's client does; time runs from before it is sent to Redis to the reading of the line, by one clock. In between the
worker is idle for 5 to 25 ms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rig import Rig
from runqy_agent.demo.client import message

if TYPE_CHECKING:
    import subprocess

WHEN = """
import json, sys, time
print('{"status": "ready"}', flush=True)
for line in sys.stdin:
    now = time.time_ns()
    print(json.dumps({"task_id": json.loads(line)["task_id"], "result": now}), flush=True)
"""


class Pickup(Rig):
    """Measures one task after the other."""

    def __init__(self, directory: Path, sub_queues: int) -> None:
        queues = {"bench.high": 9, **{f"bench.low{number}": 3 for number in range(1, sub_queues)}}
        super().__init__(directory, {"main.py": WHEN, "requirements.txt": ""}, queues, redis_storage=True)

    def run(self, tasks: int, concurrency: int) -> list[float]:
        """Milliseconds for each task."""
        self.client.redis.flushdb()  # a server of this benchmark's own
        agent = self.start(concurrency)
        try:
            return [self._one(agent) for _ in range(tasks)]
        finally:
            agent.terminate()
            agent.wait()

    def _one(self, agent: subprocess.Popen[bytes]) -> float:
        time.sleep(random.uniform(0.005, 0.025))
        task = message("bench.high", b"{}", retention=60)
        sent = time.time_ns()
        self.client.enqueue_all([task])
        results: list[bytes] = []

        def has_result() -> bool:
            info = self.client.info(task.queue, task.id)
            if info is not None and info.result is not None:
                results.append(info.result)
            return bool(results)

        self.until(has_result, agent, pause=0.002)
        return (int(results[0]) - sent) / 1e6


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=500, help="tasks in each run")
    parser.add_argument("--concurrency", default="1,64", help="worker.concurrency, separated by commas")
    parser.add_argument("--sub-queues", default="2,100", help="how many there are, separated by commas")
    options = parser.parse_args()
    print(f"{options.tasks} tasks, one at a time")
    print("sub-queues  concurrency   ms from enqueue to process: median   90 %   99 %   longest")
    for sub_queues in map(int, options.sub_queues.split(",")):
        with tempfile.TemporaryDirectory(prefix="runqy-bench-") as directory:
            bench = Pickup(Path(directory), sub_queues)
            try:
                bench.run(20, 1)  # warms everything up
                for level in map(int, options.concurrency.split(",")):
                    times = sorted(bench.run(options.tasks, level))
                    parts = [times[int(len(times) * part)] for part in (0.9, 0.99)]
                    rest = "  ".join(f"{value:5.2f}" for value in (*parts, times[-1]))
                    print(f"{sub_queues:10d}  {level:11d}   {statistics.median(times):34.2f}  {rest}", flush=True)
            finally:
                bench.close()


if __name__ == "__main__":
    main()
