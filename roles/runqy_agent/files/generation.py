"""Remember what a host runs before it is changed, bring that back, and clear away what is not needed any more.

Runs on the host. The caller appends the call of ``main``.

``previous.tar`` in the configuration directory holds the files of the last good deployment, ``previous.json`` its
version and the state of its units. ``.restart-pending`` lies there from the first change until the changed worker is
healthy.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

UNITS = "runqy-agent*.[st]*"


class Host:
    """The places of one host's deployment."""

    def __init__(self, scope: str, prefix: str, config_dir: str, unit_dir: str, command: str) -> None:
        self.prefix, self.config_dir, self.unit_dir, self.command = map(Path, (prefix, config_dir, unit_dir, command))
        self.systemctl = ["systemctl"] if scope == "system" else ["systemctl", "--user"]
        self.previous = self.config_dir / "previous.tar"
        self.previous_facts = self.config_dir / "previous.json"
        self.pending = self.config_dir / ".restart-pending"
        self.current = self.prefix / "current"
        if scope != "system":
            os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def control(self, *arguments: str) -> str:
        """Ask systemd for something; where there is none, nothing happens."""
        try:
            done = subprocess.run(
                [*self.systemctl, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()

    def units(self) -> list[str]:
        """The names of our units."""
        return sorted(Path(path).name for path in glob.glob(os.path.join(glob.escape(str(self.unit_dir)), UNITS)))

    def files(self) -> list[Path]:
        """Every file that a deployment writes, but for the installed versions."""
        found = [self.unit_dir / unit for unit in self.units()]
        found += [self.command] if self.command.is_file() else []
        own = ("previous.", "exchange.", ".")
        return found + [path for path in self.config_dir.rglob("*") if path.is_file() and not path.name.startswith(own)]

    def version(self) -> str:
        """The version that ``current`` leads to, or ""."""
        return os.path.basename(os.readlink(self.current)) if self.current.is_symlink() else ""

    def save(self, archive: Path) -> dict[str, Any]:
        """Put all files into an archive that only its owner reads. Returns what belongs to it."""
        archive.unlink(missing_ok=True)
        with (
            os.fdopen(os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            for path in self.files():
                tar.add(path, arcname=str(path).lstrip("/"))
        states = {unit: [self.control("is-active", unit), self.control("is-enabled", unit)] for unit in self.units()}
        return {"version": self.version(), "units": states}

    def switch(self, version: str) -> None:
        """Let ``current`` lead to a version, in one step."""
        if not version:
            self.current.unlink(missing_ok=True)
            return
        new = self.prefix / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.join("versions", version))
        new.replace(self.current)


def write(path: Path, facts: dict[str, Any]) -> None:
    """Write facts into a file that appears whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(facts, file)
    new.replace(path)


def begin(host: Host) -> dict[str, Any]:
    """Before the first change: remember what is there. What an interrupted deployment remembered is kept."""
    host.config_dir.mkdir(parents=True, exist_ok=True)
    if host.pending.exists():
        return {"remembered": "earlier"}
    if host.version():
        new = host.config_dir / "previous.tar.new"
        facts = host.save(new)
        write(host.previous_facts, facts)
        new.replace(host.previous)
    else:
        host.previous.unlink(missing_ok=True)
        host.previous_facts.unlink(missing_ok=True)
    host.pending.touch(mode=0o600)
    return {"remembered": host.version()}


def restore(host: Host, *, exchange: bool) -> dict[str, Any]:
    """Bring back what was remembered: files, version, and whether units start with the host. Nothing is restarted.

    Args:
        host: the host.
        exchange: remember what is there now, so that it can be brought back in turn.
    """
    if not exchange and not host.pending.exists():
        sys.exit(f"{host.pending} is not there: no deployment has begun that could be undone; nothing was touched")
    facts = json.loads(host.previous_facts.read_text()) if host.previous.exists() else {"version": "", "units": {}}
    there = host.save(host.config_dir / "exchange.tar") if exchange else None
    for unit in host.units():
        if unit not in facts["units"]:
            host.control("disable", "--now", unit)
    for path in host.files():
        path.unlink()
    if host.previous.exists():
        with tarfile.open(host.previous) as tar:
            tar.extraction_filter = lambda member, _: member  # owners and permissions as they were
            tar.extractall("/")  # noqa: S202  # our own archive, which nobody else may write
    host.switch(facts["version"])
    host.control("daemon-reload")
    for unit, (_, enabled) in facts["units"].items():
        host.control("enable" if enabled == "enabled" else "disable", unit)
    if there is not None:
        (host.config_dir / "exchange.tar").replace(host.previous)
        write(host.previous_facts, there)
    host.pending.unlink(missing_ok=True)
    active = [
        unit
        for unit, (state, _) in facts["units"].items()
        if unit.endswith(".service") and state in {"active", "activating", "reloading"}
    ]
    return {"restored": facts["version"], "were_active": active}


def finish(host: Host, keep: int) -> dict[str, Any]:
    """After the last change: forget that a restart was pending, and remove versions that nothing leads to."""
    host.pending.unlink(missing_ok=True)
    needed = {host.version()}
    if host.previous_facts.exists():
        needed.add(json.loads(host.previous_facts.read_text())["version"])
    versions = sorted((host.prefix / "versions").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    spare = [path for path in versions if path.name not in needed]
    removed = spare[max(0, keep - len(needed)) :]
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
    return {"removed": [path.name for path in removed]}


def main(action: str, places: dict[str, str], keep: int = 0) -> None:
    """Do one of ``begin``, ``restore``, ``exchange`` and ``finish``; print what was done.

    Args:
        action: which.
        places: the arguments of ``Host``.
        keep: how many versions ``finish`` leaves.
    """
    os.umask(0o022)
    host = Host(**places)
    if action == "begin":
        result = begin(host)
    elif action == "finish":
        result = finish(host, keep)
    else:
        result = restore(host, exchange=action == "exchange")
    print(json.dumps(result))
