"""What the chaos tests do: load to work on, and harm to workers and to Redis."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos import accounting, journal
from chaos.accounting import Account, Run, Sum, Trouble
from runqy_agent.broker import keys
from runqy_agent.demo.client import DAY, TaskClient, message
from runqy_agent.demo.redis_server import RedisServer
from stage import Agent, Stage, until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from runqy_agent.broker.asynq_pb2 import TaskMessage
    from runqy_agent.demo.client import TaskInfo

QUEUE = "inference.default"

RECOVERY_PATIENCE = 400.0
"""Seconds for tasks to come home in real time: a lease (30), the grace (30), a recoverer's interval (60), the delay of
the retry (15 to 44 the first time, up to 74 the second), and a slow machine."""

FIGURES = "chaos figures"
"""The property under which a test records what it has seen, for the summary."""

KINDS = {"ok": 76, "gone": 6, "again": 6, "archived": 6, "unique": 6}
"""The mixture of tasks, in percent."""


class Scene:
    """A queue with a Redis that keeps a journal, and the harm that is done to it.

    Attributes:
        account: what was enqueued, and what was done to the workers and to Redis.
    """

    def __init__(self, directory: Path, deployments: Path, fsync: str = "no") -> None:
        self.server = RedisServer(arguments=[*journal.ARGUMENTS, "--appendfsync", fsync])
        self.stage = Stage(directory, deployments, self.server.client(), self.server.address)
        self.account = Account(self.stage, QUEUE)
        # Waits for as long as Redis is frozen, and sends nothing twice.
        self._client = TaskClient(redis.Redis(port=self.server.port, socket_timeout=None, retry=Retry(NoBackoff(), 0)))
        self._runs = directory / "runs"
        self._frozen: set[int] = set()

    def define_queue(self, concurrency: int) -> None:
        """Define the queue, whose tasks are run by ``author_program.py``, as many at once as the agent holds."""
        self.account.concurrency = concurrency
        program = Path(__file__).with_name("author_program.py").read_text(encoding="utf-8")
        # Without storage of results a retention of 0 is one, and the task leaves Redis.
        environment = {"RUNS": str(self._runs), "THREADS": str(concurrency)}
        self.stage.queue("inference", {"main.py": program}, env_vars=environment, redis_storage=False)

    def agent(self, **settings: Any) -> Agent:
        """Start an agent."""
        return self.stage.agent(concurrency=self.account.concurrency, **settings)

    # Load.

    def enqueue(self, payloads: Iterable[dict[str, Any]]) -> list[str]:
        """Enqueue tasks that are to be completed."""
        return self._enqueue([_task(payload) for payload in payloads])

    def enqueue_mixture(self, chance: random.Random, number: int) -> list[str]:
        """Enqueue tasks of all kinds, each of which takes between 50 and 150 ms."""
        kinds = chance.choices(list(KINDS), list(KINDS.values()), k=number)
        tasks = []
        for kind in kinds:
            how = kind if kind in {"again", "archived"} else "ok"
            payload = {"ms": chance.randrange(50, 150), "how": how, "salt": chance.getrandbits(64)}
            task = _task(payload, retention=0 if kind == "gone" else DAY)
            if kind == "unique":
                digest = hashlib.md5(task.payload, usedforsecurity=False).hexdigest()
                task.unique_key = f"asynq:{{{QUEUE}}}:unique:{task.type}:{digest}"
                assert self._client.redis.set(task.unique_key, task.id, nx=True, ex=DAY)
            tasks.append(task)
        return self._enqueue(tasks)

    def _enqueue(self, tasks: Sequence[TaskMessage]) -> list[str]:
        for task in tasks:
            how = json.loads(task.payload)["how"]
            ends = "archived" if how == "archived" else "completed" if task.retention else journal.GONE
            self.account.expected[task.id] = ends
        return self._client.enqueue_all(tasks)

    # Looking.

    def runs(self) -> list[Run]:
        """All runs of the author's code so far."""
        return accounting.read_runs(self._runs)

    def active(self) -> set[str]:
        """The tasks that a worker holds, be it dead or alive."""
        return set(self.stage.ids(QUEUE, "active"))

    def idle(self, left_by_others: set[str]) -> bool:
        """Whether a worker has nothing to do, while others have left these tasks behind."""
        return not self.stage.ids(QUEUE, "pending") and self.active() <= left_by_others

    def leases(self) -> dict[str, float]:
        """When the lease of each task ends, in unix seconds of Redis' clock."""
        leases: Any = self.stage.redis.zrange(keys.queue_keys(QUEUE).lease, 0, -1, withscores=True)
        return {task_id.decode(): ends for task_id, ends in leases}

    def info(self, task_id: str) -> TaskInfo:
        """A task that is in Redis."""
        found = self.stage.client.info(QUEUE, task_id)
        assert found is not None
        return found

    def last_lease(self) -> float:
        """When the last lease ends that there is now, in unix seconds."""
        leases: Any = self.stage.redis.zrange(keys.queue_keys(QUEUE).lease, -1, -1, withscores=True)
        return float(leases[0][1])

    def no_record_left(self) -> bool:
        """Whether no worker's record is left for the runqy server to see."""
        return not list(self.stage.redis.scan_iter("asynq:workers:*"))

    def processed(self) -> int:
        """How many outcomes were counted."""
        return self.stage.number(QUEUE, "processed")

    def until_processed(self, number: int) -> None:
        """Wait until so many outcomes were counted."""
        until(lambda: self.processed() >= number, f"{number} outcomes are counted")

    def until_finished(self) -> None:
        """Wait until every task has ended."""
        until(self._nothing_left, "every task has ended", RECOVERY_PATIENCE)

    def _nothing_left(self) -> bool:
        time.sleep(0.05)
        return accounting.unfinished(self.stage, QUEUE) == 0

    def check(self) -> Sum:
        """Check everything, after the last task has ended; see ``accounting.Account``."""
        return self.account.check(self.runs())

    # Harm to workers.

    def kill(self, agent: Agent, what: str) -> bool:
        """Kill -9 an agent with all that it has started, as well as one after the other can be at once.

        Returns:
            False if it had ended already.
        """
        groups = _groups(agent)
        if agent.process.poll() is not None:
            return False
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        agent.wait()
        self.account.troubles.append(Trouble(f"kill {len(self.account.troubles) + 1}, {what}", time.time(), agent.pid))
        return True

    def freeze(self, agent: Agent, *, whole: bool) -> None:
        """Stop an agent's clock: with everything it has started, or the agent alone."""
        for group in _groups(agent) if whole else [agent.pid]:
            os.killpg(group, signal.SIGSTOP)
            self._frozen.add(group)

    def thaw(self, agent: Agent) -> None:
        """Let a frozen agent go on."""
        self.account.troubles.append(Trouble("frozen", time.time(), agent.pid))
        self._thaw()

    def _thaw(self) -> None:
        for group in self._frozen:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)
        self._frozen.clear()

    # Harm to Redis.

    def stop_redis(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End Redis. Its data stays."""
        os.kill(self.server.pid, number)
        self.server.stop()

    def start_redis(self) -> None:
        """Start it again."""
        self.server.start()

    def freeze_redis(self) -> None:
        """It keeps its connections and takes new ones, but does nothing."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def thaw_redis(self) -> None:
        """It goes on, with all that was sent to it meanwhile."""
        os.kill(self.server.pid, signal.SIGCONT)

    def redis_was_away(self, what: str) -> None:
        """It was frozen, or down, for longer than a lease."""
        self.account.troubles.append(Trouble(f"Redis {what}", time.time()))

    def close(self) -> None:
        """End everything."""
        self._thaw()
        self.stage.close()
        with suppress(ProcessLookupError):
            self.thaw_redis()
        self.server.close()


def cpu_seconds(agent: Agent) -> float:
    """The processor time that an agent has used, without its children."""
    times = psutil.Process(agent.pid).cpu_times()
    return float(times.user + times.system)


def _task(payload: dict[str, Any], retention: int = DAY) -> TaskMessage:
    # Retries in plenty: however often its worker dies, no task may be archived for that.
    return message(QUEUE, json.dumps(payload).encode(), max_retry=50, retention=retention)


def _groups(agent: Agent) -> list[int]:
    """The process groups of an agent and of all that it has started, its own first."""
    groups = [agent.pid]
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(agent.pid).children(recursive=True):
            with suppress(ProcessLookupError):
                groups.append(os.getpgid(child.pid))
    return list(dict.fromkeys(groups))
