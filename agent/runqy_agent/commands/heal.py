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
BEAT_SECONDS = 7.0
"""Within that a worker whose Redis has just come back has beaten again."""
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
    """The restarts of one unit, one JSON object a line.

    ``time`` in unix seconds, ``worker_id``, ``state`` and ``reason`` of the worker before, ``trigger``, and ``result``:
    ``restarting`` until it is known, then ``restarted`` or ``failed``.
    """

    def __init__(self, directory: Path, unit: str) -> None:
        self._path = directory / f"{unit.removesuffix('.service')}.jsonl"
        self._lock = directory / f".{unit}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, nobody else heals this unit. Raises RunqyAgentError if somebody does already."""
        with self._usable():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunqyAgentError(f"{self._path.stem} is being healed already") from None
            yield

    def within_an_hour_of(self, moment: float) -> int:
        """Count the restarts less than an hour away from a moment, unix seconds.

        Those after it count too: the clock may have been set back since.
        """
        return sum(abs(record["time"] - moment) < HOUR for record in self._read())

    def add(self, record: dict[str, Any]) -> None:
        """Write one down; the oldest are forgotten."""
        self._write([*self._read(), record])

    def finish(self, result: str) -> None:
        """Write down what has come of the last one."""
        *earlier, last = self._read()
        self._write([*earlier, last | {"result": result}])

    def _write(self, records: list[dict[str, Any]]) -> None:
        new = self._path.with_suffix(".new")
        with self._usable():
            new.write_text("".join(f"{json.dumps(each)}\n" for each in records[-KEEP_RECORDS:]), encoding="utf-8")
            os.replace(new, self._path)  # noqa: PTH105 - the same, and says that the old one goes

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunqyAgentError(f"records cannot be kept in {self._path.parent}: {error.strerror}") from None

    def _read(self) -> list[dict[str, Any]]:
        with self._usable():
            if not self._path.exists():
                return []
            text = self._path.read_text(encoding="utf-8", errors="replace")
        records = []
        for line in text.splitlines():
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
        RunqyAgentError: systemd cannot be asked, or the records cannot be used.
    """
    with records.locked():
        look = watcher.look()
        if look.verdict.state == "stale" and look.verdict.restart:
            time.sleep(BEAT_SECONDS)  # when Redis comes back a whole fleet looks like that, for one beat
            look = watcher.look()
        before = (look.status or {}).get("worker_id", "")
        made = records.within_an_hour_of(time.time())
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
        records.add({"time": time.time(), **record, "result": "restarting"})
        trouble = _restart(watcher, unit, policy, result)
        result |= {"restarts_last_hour": made + 1, "action": "failed" if trouble else "restarted"}
        records.finish(str(result["action"]))
        if trouble:
            result |= {"reason": f"{look.verdict.reason}; {trouble}", "log": unit.log(policy.log_lines)}
        return result, not trouble


def _restart(watcher: Watcher, unit: Unit, policy: Policy, result: dict[str, Any]) -> str:
    """Restart it and put the new ``worker_id`` into the result. Returns what went wrong, or ""."""
    wanted = Wanted(policy.verify_seconds, other_than=result["before"])
    try:
        unit.restart()
        after, samples = watcher.wait(wanted)
    except RunqyAgentError as error:
        return f"the restart failed: {error}"
    result["worker_id"] = (after.status or {}).get("worker_id", "")
    return "" if samples >= wanted.samples else f"after a restart: {after.verdict.reason}"
