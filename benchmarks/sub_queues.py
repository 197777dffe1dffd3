"""What many sub-queues cost: the time from connecting to serving, and connections and commands of an idle worker.

    python benchmarks/sub_queues.py [--sub-queues 2,100,300] [--round-trip 0,20] [--seconds 10]

Everything is real and on this machine: a redis-server, and one worker with a handler, without a registration server.
For round trips longer than those of loopback there is a proxy in between. Commands are those that Redis counts itself
(``total_commands_processed``), so what scripts do is among them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent import Worker, load_config
from runqy_agent.demo.redis_server import RedisServer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from flaky_proxy import FlakyProxy, Weather

if TYPE_CHECKING:
    import redis

PATIENCE = 300.0
OWN_COMMANDS = 2
"""What asking for the counter twice adds to it."""


def start(address: str, sub_queues: int) -> tuple[Worker, threading.Thread, float]:
    """Start a worker. Returns it, its thread, and how many seconds it took until it was serving."""
    environment = {"RUNQY_REDIS_ADDRESS": address, "RUNQY_LOG_LEVEL": "warning"}
    queues = {f"bench.q{number}": 1 for number in range(sub_queues)}
    worker = Worker(load_config(environ=environment, server_required=False), queues=queues)

    async def handle(_: object) -> None:
        await asyncio.sleep(0)

    worker.handle_default(handle)
    thread = threading.Thread(target=lambda: asyncio.run(worker.serve()), name="worker")
    began = time.monotonic()
    thread.start()
    while worker.status != "running":
        if not thread.is_alive() or time.monotonic() - began > PATIENCE:
            raise SystemExit("the worker ended, or took too long")
        time.sleep(0.001)
    return worker, thread, time.monotonic() - began


def idle(client: redis.Redis, seconds: float) -> tuple[int, float]:
    """How many connections there are beside this client's own, and how many commands a second they send."""
    time.sleep(2.0)  # what the start sets in motion comes to rest
    before = client.info("stats")["total_commands_processed"]
    time.sleep(seconds)
    after = client.info("stats")["total_commands_processed"]
    connections = client.info("clients")["connected_clients"] - 1
    return connections, (after - before - OWN_COMMANDS) / seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sub-queues", default="2,100,300", help="how many, separated by commas")
    parser.add_argument("--round-trip", default="0,20", help="milliseconds added to a round trip, separated by commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long an idle worker is watched")
    options = parser.parse_args()
    print("sub-queues  round trip   s to serving   idle: connections  commands/s")
    for milliseconds in map(float, options.round_trip.split(",")):
        for sub_queues in map(int, options.sub_queues.split(",")):
            server = RedisServer()
            proxy = FlakyProxy(server.port)
            delay = milliseconds / 1000
            proxy.weather = Weather(request_delay=(delay, delay))
            address = proxy.address if delay else server.address
            worker, thread, seconds = start(address, sub_queues)
            with server.client() as client:
                connections, commands = idle(client, options.seconds)
            print(
                f"{sub_queues:10d}  {milliseconds:7.0f} ms   {seconds:12.2f}   {connections:17d}  {commands:10.1f}",
                flush=True,
            )
            worker.stop()
            thread.join()
            proxy.close()
            server.close()


if __name__ == "__main__":
    main()
