"""What the host has and uses, for the heartbeat."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from runqy_agent.child_environment import ACCELERATORS, EVERY_CHILD, inherit
from runqy_agent.spawning import create

if TYPE_CHECKING:
    from runqy_agent.clock import Clock

log = logging.getLogger(__name__)

GPU_QUERY = "index,name,utilization.gpu,memory.used,memory.total,temperature.gpu"
GPU_INTERVAL = 15.0
"""Seconds between two calls of nvidia-smi."""
GPU_TIMEOUT = 5.0
"""Seconds after which nvidia-smi is killed."""
GPU_PATIENCE = 1.0
"""Seconds that a reading waits for nvidia-smi; later it is for the next one."""
MAX_GPU_OUTPUT = 256 * 1024
"""Bytes; a line of a card takes about 60."""


class HostMetrics:
    """Reads the load of the machine; GPUs through ``nvidia-smi`` where there is one.

    With a driver in trouble nvidia-smi may hang where not even a signal ends it. That must not hold up the heartbeat:
    it runs beside it, and none is started as long as the last one has not ended.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gpus: list[dict[str, Any]] = []
        self._gpus_at = float("-inf")
        self._nvidia_smi = shutil.which("nvidia-smi")
        self._query: asyncio.Task[None] | None = None
        psutil.cpu_percent(interval=None)  # the first call only sets the mark

    async def read(self) -> str:
        """JSON of ``cpu_percent``, ``memory_used_bytes``, ``memory_total_bytes``, ``gpus`` and ``collected_at``."""
        memory = psutil.virtual_memory()
        if self._nvidia_smi:
            await self._update_gpus(self._nvidia_smi)
        return json.dumps(
            {
                "cpu_percent": psutil.cpu_percent(interval=None),
                "memory_used_bytes": memory.total - memory.available,
                "memory_total_bytes": memory.total,
                "gpus": self._gpus,
                "collected_at": int(self._clock.now()),
            }
        )

    async def _update_gpus(self, program: str) -> None:
        if self._query is not None and not self._query.done():
            return
        if self._clock.monotonic() - self._gpus_at >= GPU_INTERVAL:
            self._gpus_at = self._clock.monotonic()
            self._query = asyncio.create_task(self._query_gpus(program), name="nvidia-smi")
            await asyncio.wait({self._query}, timeout=GPU_PATIENCE)

    async def _query_gpus(self, program: str) -> None:
        """Ask once. Ends when the program has ended."""
        try:
            process = await create(
                (program, f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"),
                environment=inherit(EVERY_CHILD | ACCELERATORS),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # it is killed with whatever it has started
            )
        except OSError:
            self._gpus = []
            return
        try:
            output = await asyncio.wait_for(_output(process), GPU_TIMEOUT)
        except asyncio.TimeoutError:
            log.warning("%s gave no answer within %g s; it is killed", program, GPU_TIMEOUT)
            self._gpus = []  # old figures would look like new ones
            _kill(process)
            await _output(process)
        except asyncio.CancelledError:
            _kill(process)
            await asyncio.wait({asyncio.ensure_future(_output(process))}, timeout=GPU_PATIENCE)
            raise
        else:
            self._gpus = [gpu for gpu in map(_parse_gpu, output.decode("utf-8", "replace").splitlines()) if gpu]
        await process.wait()


async def _output(process: asyncio.subprocess.Process) -> bytes:
    """What it prints until it ends; of more than cards can have to say, the beginning."""
    output = bytearray()
    while process.stdout and (part := await process.stdout.read(MAX_GPU_OUTPUT)):
        output += part[: MAX_GPU_OUTPUT - len(output)]
    return bytes(output)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _parse_gpu(line: str) -> dict[str, Any] | None:
    try:
        index, name, utilization, used, total, temperature = (part.strip() for part in line.split(","))
        return {
            "index": int(index),
            "name": name,
            "utilization_percent": _number(utilization),
            "memory_used_mb": _number(used),
            "memory_total_mb": _number(total),
            "temperature_c": _number(temperature),
        }
    except ValueError:
        return None


def _number(text: str) -> float:
    """A figure of nvidia-smi; 0 where the card does not tell (``[N/A]``)."""
    try:
        return float(text)
    except ValueError:
        return 0.0
