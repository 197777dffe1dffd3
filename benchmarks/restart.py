"""How long a restart with nothing new takes, and the end of an idle worker, against what nobody can do without.

    python benchmarks/restart.py [--runs 10]

The agent is started again and again with code and environment that are there; time runs until Redis says that it is
running. The measure is a Python that loads the agent and ends: both share the machine's mood, so their ratio can be
compared where the seconds cannot.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig import Rig

CODE = """
import sys
print('{"status": "ready"}', flush=True)
sys.stdin.read()
"""


class Restarts(Rig):
    """Measures one restart after the other."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {"main.py": CODE, "requirements.txt": ""}, {"bench.high": 9, "bench.low": 3})

    def one(self) -> tuple[float, float]:
        """Seconds to a running worker, and to the end of it."""
        began = time.perf_counter()
        agent = self.start(1)
        started = time.perf_counter()
        agent.terminate()
        agent.wait()
        return started - began, time.perf_counter() - started


def bare() -> float:
    """Seconds that a Python takes to load the agent and to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import runqy_agent.worker"], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10, help="restarts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runqy-bench-") as directory:
        bench = Restarts(Path(directory))
        try:
            bench.one()  # builds the environment
            rows = [(*bench.one(), bare()) for _ in range(options.runs)]  # in turn: the machine's speed drifts
            starts, ends, bares = zip(*rows, strict=True)
            measure = statistics.median(bares)
            print(f"{options.runs} restarts with nothing new, {bench.redis.kind}; loading the agent: {measure:.3f} s")
            print("          seconds: median   lowest   highest   ratio to loading the agent")
            for what, times in (("running", starts), ("ended", ends)):
                middle = statistics.median(times)
                print(f"{what:9} {middle:15.3f}   {min(times):6.3f}   {max(times):7.3f}   {middle / measure:26.1f}")
        finally:
            bench.close()


if __name__ == "__main__":
    main()
