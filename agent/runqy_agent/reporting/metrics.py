"""What the host has and uses, for the heartbeat."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from runqy_agent.clock import Clock

GPU_QUERY = "index,name,utilization.gpu,memory.used,memory.total,temperature.gpu"
GPU_INTERVAL = 15.0
"""Seconds between two calls of nvidia-smi."""
GPU_TIMEOUT = 5.0


class HostMetrics:
    """Reads the load of the machine; GPUs through ``nvidia-smi`` where there is one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gpus: list[dict[str, Any]] = []
        self._gpus_at = float("-inf")
        self._nvidia_smi = shutil.which("nvidia-smi")
        psutil.cpu_percent(interval=None)  # the first call only sets the mark

    async def read(self) -> str:
        """JSON of ``cpu_percent``, ``memory_used_bytes``, ``memory_total_bytes``, ``gpus`` and ``collected_at``."""
        memory = psutil.virtual_memory()
        if self._nvidia_smi and self._clock.monotonic() - self._gpus_at >= GPU_INTERVAL:
            self._gpus_at = self._clock.monotonic()
            self._gpus = await self._read_gpus(self._nvidia_smi)
        return json.dumps(
            {
                "cpu_percent": psutil.cpu_percent(interval=None),
                "memory_used_bytes": memory.total - memory.available,
                "memory_total_bytes": memory.total,
                "gpus": self._gpus,
                "collected_at": int(self._clock.now()),
            }
        )

    async def _read_gpus(self, program: str) -> list[dict[str, Any]]:
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                f"--query-gpu={GPU_QUERY}",
                "--format=csv,noheader,nounits",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            return []
        try:
            output, _ = await asyncio.wait_for(process.communicate(), GPU_TIMEOUT)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            return []
        return [gpu for gpu in map(_parse_gpu, output.decode("utf-8", "replace").splitlines()) if gpu]


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
