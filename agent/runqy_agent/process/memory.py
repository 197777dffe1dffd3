"""How much memory is left for another process."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be used without swapping, by the machine's account and this service's limit (cgroup v2)."""
    available = int(psutil.virtual_memory().available)
    left = _left_in_cgroup()
    return available if left is None else min(available, left)


def resident_memory(pid: int) -> int:
    """Resident bytes of one process; 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _left_in_cgroup() -> int | None:
    """Bytes until the limit of this process's control group; None without one."""
    try:
        paths = [line[3:].strip() for line in _CGROUP.read_text().splitlines() if line.startswith("0::")]
        group = _CGROUPS / paths[0].lstrip("/")
        limit = (group / "memory.max").read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        return None
