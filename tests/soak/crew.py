"""The agents of the soak, all on the same queues, and how they are ended and replaced."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from stage import Agent, Stage

STEADY: dict[str, Any] = {"queues": "serve,single", "concurrency": 6, "processes": 2}
"""The agent that lasts: its memory is looked at. Its processes are killed, and its Redis is as bad as everybody's."""
ROLES: tuple[dict[str, Any], ...] = (
    STEADY,
    {"queues": "serve", "concurrency": 4, "processes": 1},
    {"queues": "serve,single", "concurrency": 3, "processes": 1},
)
SETTINGS: dict[str, Any] = {
    "recovery_initial_delay": "50ms",
    "recovery_max_delay": "200ms",
    "recovery_max_restarts": 1_000_000,
}
MEBIBYTE = 2**20


class Crew:
    """One agent for each role, whatever happens to them.

    Attributes:
        ended: process ids of agents that were told to end.
        gave_up: exit codes of agents that ended by themselves.
        killed: process ids of agents that were killed.
        killed_processes: process ids of authors' processes that were killed, but for those of killed agents.
    """

    def __init__(self, stage: Stage, address: str) -> None:
        """Make one; ``address`` is that of the Redis that agents are to use."""
        self._stage = stage
        self._address = address
        self.agents: list[Agent] = []
        self.ended: set[int] = set()
        self.gave_up: Counter[int] = Counter()
        self.killed: set[int] = set()
        self.killed_processes: set[int] = set()

    def start(self) -> None:
        """Start all, and wait until they run."""
        self.agents = [self._start(role) for role in range(len(ROLES))]
        for agent in self.agents:
            agent.wait_running()

    def _start(self, role: int) -> Agent:
        return self._stage.agent(redis_address=self._address, shutdown_timeout="2s", **ROLES[role], **SETTINGS)

    def replace_killed(self, role: int, *, whole: bool) -> None:
        """Kill -9 an agent, with all that it has started or alone, and start another one."""
        agent = self.agents[role]
        self.killed.add(agent.pid)
        children = _descendants(agent.pid) if whole else []
        os.kill(agent.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        agent.wait()
        self.agents[role] = self._start(role)

    def replace_those_that_gave_up(self) -> None:
        """Start another agent where one has ended by itself, as systemd does."""
        for role, agent in enumerate(self.agents):
            code = agent.process.poll()
            if code is not None:
                self.gave_up[code] += 1
                self.agents[role] = self._start(role)

    def replace_ended(self, role: int) -> None:
        """Tell an agent to end, and start another one beside it."""
        agent = self.agents[role]
        self.ended.add(agent.pid)
        agent.process.terminate()
        self.agents[role] = self._start(role)

    def kill_process(self, role: int, chance: float) -> bool:
        """Kill -9 one of the processes of an agent. Returns whether there was one."""
        processes = [child for child in _descendants(self.agents[role].pid) if _is_authors(child)]
        if not processes:
            return False
        victim = processes[int(chance * len(processes))]
        self.killed_processes.add(victim.pid)
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        return True

    def redeploy(self, role: int) -> None:
        """SIGHUP."""
        self.agents[role].process.send_signal(signal.SIGHUP)

    def memory(self) -> float:
        """MiB that the agent uses that lasts."""
        return float(psutil.Process(self.agents[0].pid).memory_info().rss) / MEBIBYTE

    def finish(self) -> dict[int, int]:
        """Tell all to end, and wait for that. Returns their exit codes, also of those told before.

        One that was told before it had begun to be an agent, while Python still loaded it, is left out.
        """
        self.ended |= {agent.pid for agent in self.agents}
        for agent in self.agents:
            agent.process.terminate()
        told = [agent for agent in self._stage.agents if agent.pid in self.ended]
        codes = {agent: agent.wait() for agent in told}
        return {agent.pid: code for agent, code in codes.items() if agent.log() or code != -signal.SIGTERM}


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _is_authors(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(argument.endswith("main.py") for argument in process.cmdline())
    return False
