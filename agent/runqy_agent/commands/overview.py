"""``runqy-agent status``: the worker of this host, or all workers in Redis, as text."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Any

from runqy_agent.escaping import escape, escape_lines
from runqy_agent.health import clock_remark, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runqy_agent.commands.endpoint import Status
    from runqy_agent.commands.fleet import FleetWorker

SHORT = 12
"""As many digits of a commit are shown."""
_NAMES = 18
"""Columns of the names; what belongs to them stands behind."""
_INDENT = "  "
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def host_overview(status: Status, width: int = 0) -> str:
    """A few lines about one worker.

    Args:
        status: what it says.
        width: columns to keep within; 0 for any number.
    """
    now = status["now"]
    verdict = judge(status, now=now)
    rows: list[tuple[str, Any]] = [
        ("worker", status["worker_id"]),
        ("version", status["version"]),
        ("state", f"{verdict.state}: {verdict.reason}"),
        ("up", age(now - status["started_at"])),
        ("queues", ", ".join(f"{name} ({priority})" for name, priority in status["queues"].items())),
        ("running", f"{status['running']} of {status['concurrency']}"),
        ("ended", ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in status["tasks"].items())),
        ("Redis", _redis(status["redis"], now)),
    ]
    rows += [("  fallback", text) for text in status["redis"].get("fallbacks", ())]
    rows += [("  trouble", f"{what}: {text}") for what, text in status["redis"].get("trouble", {}).items()]
    if remark := clock_remark(status):
        rows.append(("clock", remark))
    if (status.get("redeploy") or {}).get("running"):
        rows.append(("redeploying", "it goes over to new code"))
    rows += [("restart needed", need) for need in (status.get("redeploy") or {}).get("restart", ())]
    for name, process in status["processes"].items():
        rows += _process_rows(name, process, now)
    return "\n".join(_row(name, str(value), width) for name, value in rows)


def _row(name: str, value: str, width: int) -> str:
    """A name and what there is to say, which goes on below itself: no line of it passes for another row."""
    lines = escape_lines(value, _INDENT).split("\n")
    if width > 2 * _NAMES:
        lines = [
            part for line in lines for part in textwrap.wrap(line, width - _NAMES, subsequent_indent=_INDENT) or [""]
        ]
    return f"{escape(name):<{_NAMES - 1}} " + f"\n{' ' * _NAMES}".join(lines)


def _process_rows(name: str, process: Mapping[str, Any], now: float) -> Iterable[tuple[str, str]]:
    """One parent queue: how it is, why it does not serve what it should, and each process of a pool.

    An agent from before an upgrade may be running still: it does not tell what is new.
    """
    commit = f", commit {process['commit'][:SHORT]}" if process["commit"] else ""
    reason = f": {process['reason']}" if process["reason"] else ""
    soon = process.get("retry_at", 0) - now
    again = f" (again in {age(soon)})" if soon > 0 else ""
    yield f"process {name}", f"{process['state']} for {age(now - process['since'])}{commit}{reason}{again}"
    if process.get("stale"):
        instead = f" instead of {process['wanted'][:SHORT]}" if process["wanted"] else ""
        yield "  stale", f"commit {process['commit'][:SHORT]} serves{instead}: {process['stale_reason']}"
    pool = process.get("processes", ())
    for each in pool if len(pool) > 1 else ():
        yield f"  pid {each['pid'] or '-'}", _pooled(each)


def _pooled(process: Mapping[str, Any]) -> str:
    gpu = f", GPU {process['gpu']}" if process["gpu"] else ""
    memory = f", {process['memory'] >> 20} MiB" if process["memory"] else ""
    reason = f": {process['reason']}" if process["reason"] else ""
    return f"{process['state']}, {process['tasks']} tasks{memory}, {process['restarts']} restarts{gpu}{reason}"


def _redis(redis: Mapping[str, Any], now: float) -> str:
    trouble = f" ({redis['error']})" if redis["error"] else ""
    return f"{redis['address'] or '-'}, last heartbeat {_ago(redis['last_beat'], now)}{trouble}"


def fleet_table(workers: Sequence[FleetWorker]) -> str:
    """One line for each worker."""
    now = time.time()
    head = ("WORKER", "VERSION", "STATUS", "HEALTHY", "STALE", "UP", "BEAT", "QUEUES")
    rows = [
        (
            worker.worker_id,
            worker.version or "-",
            worker.status,
            "yes" if worker.healthy else "no",
            " ".join(worker.stale) or "-",
            age(now - worker.started_at),
            _ago(worker.last_beat, now),
            " ".join(worker.queues),
        )
        for worker in workers
    ]
    cells = [[escape(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def age(seconds: float) -> str:
    """A length of time, in its largest unit that fits: ``45 s``, ``12 min``, ``5 h``, ``3 d``."""
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _ago(moment: float | None, now: float) -> str:
    return "never" if moment is None else f"{age(now - moment)} ago"
