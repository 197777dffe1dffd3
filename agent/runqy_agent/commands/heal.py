"""``runqy-agent heal``: restart a worker that is unhealthy, with a limit, a record and a look afterwards.

The node's timer and the role ``runqy_health`` both call this, so that both count against one limit.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.commands.look import Wanted
from runqy_agent.errors import RunqyAgentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runqy_agent.commands.look import Watcher
    from runqy_agent.commands.units import Unit

HOUR = 3600.0
KEEP_RECORDS = 500
_UNHEALTHY = ("degraded", "crashed", "watchdog", "stale", "unresponsive", "not_ready")


@dataclass(frozen=True)
class Policy:
    """When and how.

    Attributes:
        max_per_hour: restarts within an hour, whoever asked for them.
        verify_seconds: in which a restarted worker must become healthy.
        log_lines: how much of its log is shown where it does not.
        trigger: who asks, for the record.
        dry_run: only tell.
    """

    max_per_hour: int = 3
    verify_seconds: float = 60.0
    log_lines: int = 30
    trigger: str = "command"
    dry_run: bool = False


class Records:
    """The restarts of one unit, one JSON object a line: ``time``, ``worker_id``, ``state``, ``reason``, ``trigger``."""

    def __init__(self, directory: Path, unit: str) -> None:
        self._path = directory / f"{unit.removesuffix('.service')}.jsonl"
        self._lock = directory / f".{unit}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, nobody else heals this unit. Raises RunqyAgentError if somebody does already."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunqyAgentError(f"{self._path.stem} is being healed already") from None
                yield
        except OSError as error:
            raise RunqyAgentError(f"records cannot be kept in {self._path.parent}: {error.strerror}") from None

    def since(self, moment: float) -> int:
        """How many restarts there were since then, unix seconds."""
        return sum(record["time"] >= moment for record in self._read())

    def add(self, record: dict[str, Any]) -> None:
        """Write one down; the oldest are forgotten."""
        lines = [json.dumps(each) for each in [*self._read(), record][-KEEP_RECORDS:]]
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(new, self._path)  # noqa: PTH105 - the same, and says that the old one goes

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        records = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # cut off by a full disk, say
            if isinstance(record, dict) and isinstance(record.get("time"), int | float):
                records.append(record)
        return records


def heal(watcher: Watcher, unit: Unit, records: Records, policy: Policy) -> tuple[dict[str, Any], bool]:
    """Look, and restart if that is called for and allowed.

    Returns:
        ``unit``, ``state``, ``reason``, ``action`` (``none``, ``restarted``, ``would_restart``, ``limit_reached`` or
        ``failed``), ``before`` and ``worker_id``, ``restarts_last_hour`` and ``log``; and whether all is well at last.

    Raises:
        RunqyAgentError: systemd or the records cannot be used.
    """
    with records.locked():
        look = watcher.look()
        before = (look.status or {}).get("worker_id", "")
        made = records.since(time.time() - HOUR)
        result = {
            "unit": unit.name,
            "state": look.verdict.state,
            "reason": look.verdict.reason,
            "action": "none",
            "before": before,
            "worker_id": before,
            "restarts_last_hour": made,
            "log": [],
        }
        if not look.verdict.restart:
            well = look.verdict.state not in _UNHEALTHY
            return ({**result, "log": [] if well else unit.log(policy.log_lines)}, well)
        if made >= policy.max_per_hour:
            reason = f"{look.verdict.reason}; it was restarted {made} times within the hour, which is the limit"
            return {**result, "action": "limit_reached", "reason": reason, "log": unit.log(policy.log_lines)}, False
        if policy.dry_run:
            return {**result, "action": "would_restart"}, False
        record = {name: result[name] for name in ("state", "reason")} | {"worker_id": before, "trigger": policy.trigger}
        # Written before the restart: one that ends this very command must count too.
        records.add({"time": time.time(), **record})
        unit.restart()
        return _verify(watcher, unit, policy, result)


def _verify(watcher: Watcher, unit: Unit, policy: Policy, result: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    after, samples = watcher.wait(Wanted(policy.verify_seconds, other_than=result["before"]))
    well = samples > 0
    result |= {"restarts_last_hour": result["restarts_last_hour"] + 1, "action": "restarted" if well else "failed"}
    result["worker_id"] = (after.status or {}).get("worker_id", "")
    if not well:
        result["reason"] += f"; after a restart: {after.verdict.reason}"
        result["log"] = unit.log(policy.log_lines)
    return result, well
