"""What a Redis is asked to do, as MONITOR shows it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.broker import scripts
from stage import until

if TYPE_CHECKING:
    from types import TracebackType

    import redis
    from typing_extensions import Self


@dataclass(frozen=True)
class Command:
    """One command. ``name`` is the script's where one is run; what a script does by itself is not shown."""

    at: float
    name: str
    text: str


class Monitor:
    """Collects commands from ``with`` on, until its end."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._names = {script.sha: script.name for script in scripts.all_scripts()}
        self._commands: list[Command] = []
        self._thread = threading.Thread(target=self._collect, daemon=True, name="monitor")
        self._stop = f"stop-{id(self)}"

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self._client.echo("ready") and self._commands, "the monitor shows commands")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.echo(self._stop)
        self._thread.join()

    def _collect(self) -> None:
        with self._client.monitor() as monitor:
            for seen in monitor.listen():
                entry: dict[str, Any] = seen
                text: str = entry["command"]
                if self._stop in text:
                    return
                if entry["client_type"] != "lua":
                    words = text.split()
                    name = self._names.get(words[1], words[0]) if words[0].upper() == "EVALSHA" else words[0].upper()
                    self._commands.append(Command(time.monotonic(), name, text))

    def commands(self) -> list[Command]:
        """Everything so far, without what the tests themselves send to keep it going."""
        return [command for command in self._commands if command.name != "ECHO"]
