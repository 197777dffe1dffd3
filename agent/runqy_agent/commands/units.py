"""Asks systemd about a unit, and lets it restart one. The only place here that starts a process."""

from __future__ import annotations

import os
import subprocess

from runqy_agent.errors import RunqyAgentError
from runqy_agent.health import UnitState

_PROPERTIES = "ActiveState,SubState,Result,ExecMainStatus,MainPID,NRestarts,LoadState,Job"
_SECONDS = 60.0


class Unit:
    """One unit of the system's manager or of the user's."""

    def __init__(self, name: str, *, user: bool = False) -> None:
        self.name = name if name.endswith(".service") else f"{name}.service"
        self._scope = ["--user"] if user else []
        if user:
            os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def state(self) -> UnitState:
        """What systemd knows of it.

        Raises:
            RunqyAgentError: there is no such unit, or no systemd.
        """
        text = self._systemctl("show", f"--property={_PROPERTIES}", self.name)
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if fields.get("LoadState") != "loaded":
            raise RunqyAgentError(
                f"there is no unit {self.name} here (systemd says: {fields.get('LoadState', 'nothing')})"
            )
        return UnitState(
            active=fields["ActiveState"],
            sub=fields["SubState"],
            result=fields["Result"],
            exit_status=int(fields["ExecMainStatus"]),
            pid=int(fields["MainPID"]),
            restarts=int(fields["NRestarts"]),
            queued=fields.get("Job", "") not in {"", "0"},
        )

    def main_process(self) -> int:
        """The id of its main process.

        Raises:
            RunqyAgentError: it has none, or as ``state`` does.
        """
        state = self.state()
        if not state.pid:
            raise RunqyAgentError(f"{self.name} has no process: it is {state.active} ({state.sub})")
        return state.pid

    def restart(self) -> None:
        """Start it anew, also if it has failed too often. Returns at once.

        Raises:
            RunqyAgentError: systemd refuses.
        """
        self._systemctl("reset-failed", self.name)
        self._systemctl("restart", "--no-block", self.name)

    def log(self, lines: int) -> list[str]:
        """The last lines of its log, none where they cannot be read."""
        command = ["journalctl", *self._scope, "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={self.name}"]
        if self._scope:
            command[-1] = f"--user-unit={self.name}"
        try:
            return _run(command).splitlines()
        except RunqyAgentError:
            return []

    def _systemctl(self, *arguments: str) -> str:
        return _run(["systemctl", *self._scope, *arguments])


def must_be_main_process(unit: Unit, pid: int) -> None:
    """Make sure that a process is the main process of a unit.

    Raises:
        RunqyAgentError: it is another one, or as ``Unit.main_process`` does.
    """
    main = unit.main_process()
    if pid != main:
        raise RunqyAgentError(f"the worker that answers is process {pid}, not that of {unit.name}, which is {main}")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise RunqyAgentError(f"{command[0]} is not installed: there is no systemd to ask here") from None
    except subprocess.TimeoutExpired:
        raise RunqyAgentError(f"{' '.join(command)} took longer than {_SECONDS:g} s") from None
    if done.returncode != 0:
        raise RunqyAgentError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
