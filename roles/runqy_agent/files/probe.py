"""Look at a host and print what was found, as one JSON object. Nothing is changed.

Runs on the host, whose Python is 3.10 or newer, with nothing installed. The caller appends the call of ``main``.
"""

from __future__ import annotations

import contextlib
import glob
import grp
import hashlib
import http.client
import importlib.util
import json
import os
import platform
import pwd
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER_SECONDS = 10
STATUS_SECONDS = 5
UNITS = "runqy-agent*.[st]*"
UNIT_PROPERTIES = "Id,ActiveState,SubState,Result,UnitFileState,MainPID,NRestarts,NeedDaemonReload"


def output(*command: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def os_release() -> dict[str, str]:
    """The fields of os-release."""
    fields = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                name, equals, value = line.strip().partition("=")
                if equals:
                    fields[name.lower()] = value.strip("\"'")
    except OSError:
        pass
    return fields


def name_of(lookup: Callable[[int], Any], number: int) -> str:
    """A user's or group's name, or its number where it has none."""
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def attributes(path: str) -> str:
    """Owner, group and permissions of what is at a path, as in ``root:root 0644``."""
    status = os.lstat(path)
    owner, group = name_of(pwd.getpwuid, status.st_uid), name_of(grp.getgrgid, status.st_gid)
    return f"{owner}:{group} {stat.S_IMODE(status.st_mode):04o}"


def fingerprint(path: str) -> str:
    """The same of a file and a checksum of its content, in one line."""
    with open(path, "rb") as file:
        return f"{hashlib.sha256(file.read()).hexdigest()} {attributes(path)}"


def free_megabytes(path: str) -> int:
    """Free space, MiB, where a path is or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free // 2**20


def account(user: str, group: str) -> dict[str, int | None]:
    """The ids behind the names, None where there is none."""
    found: dict[str, int | None] = {"uid": None, "gid": None}
    with contextlib.suppress(KeyError):
        found["uid"] = pwd.getpwnam(user).pw_uid
    with contextlib.suppress(KeyError):
        found["gid"] = grp.getgrnam(group).gr_gid
    return found


def ask_server(url: str, ca: str, proxies: dict[str, str]) -> dict[str, Any]:
    """Whether an HTTP server answers, whatever it answers, and the time on its clock."""
    context = ssl.create_default_context(cadata=ca or None)
    handlers = [urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler(proxies or None)]
    began = time.time()
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=SERVER_SECONDS) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"answers": False, "error": str(getattr(error, "reason", error)), "skew": None}
    skew = None
    if headers.get("Date"):
        # The header has whole seconds, cut off; the host's time is that in the middle of the exchange.
        skew = (began + time.time()) / 2 - (parsedate_to_datetime(headers["Date"]).timestamp() + 0.5)
    return {"answers": True, "error": "", "skew": skew}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def connect(self) -> None:
        """Open it; the host is the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def worker_status(address: str) -> Any:
    """What the worker behind a socket file or ``host:port`` says of itself, or None."""
    path = address.removeprefix("unix:")
    connection = (
        UnixConnection(path, timeout=STATUS_SECONDS)
        if path.startswith("/")
        else http.client.HTTPConnection(address, timeout=STATUS_SECONDS)
    )
    try:
        connection.request("GET", "/status", headers={"Host": "localhost"})
        return json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def systemd(unit_dir: str, *, system: bool) -> dict[str, Any]:
    """Its version, whether it manages this host or user, and our units."""
    if not system and "XDG_RUNTIME_DIR" not in os.environ:
        os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"
    version = (output("systemctl", "--version") or "").split()
    manager = ["systemctl"] if system else ["systemctl", "--user"]
    running = os.path.isdir("/run/systemd/system") and output(*manager, "show", "--property=Version") is not None
    units = {}
    names = sorted(os.path.basename(path) for path in glob.glob(os.path.join(unit_dir, UNITS)))
    if running and names:
        text = output(*manager, "show", "--property=" + UNIT_PROPERTIES, *names) or ""
        for block in text.split("\n\n"):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            units[fields.get("Id", "")] = fields
    return {"version": int(version[1].split(".")[0]) if len(version) > 1 else 0, "running": running, "units": units}


def managed_files(paths: dict[str, str]) -> dict[str, str]:
    """The files that a deployment has written: configuration, units and the command."""
    found = [paths["command"], *glob.glob(os.path.join(paths["unit_dir"], UNITS))]
    for directory, _, names in os.walk(paths["config_dir"]):
        found += [os.path.join(directory, name) for name in names if not name.startswith((".", "previous."))]
    return {path: fingerprint(path) for path in found if os.path.isfile(path) and not os.path.islink(path)}


def python() -> dict[str, Any]:
    """The Python that runs this, which is the one that the agent will be installed with."""
    return {
        "path": sys.executable,
        "version": platform.python_version(),
        "short": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "venv": importlib.util.find_spec("venv") is not None,
        "ensurepip": importlib.util.find_spec("ensurepip") is not None,
    }


def target() -> str:
    """What wheels must fit: implementation, machine, C library."""
    libc, version = platform.libc_ver()
    return "-".join([sys.implementation.cache_tag, platform.machine(), libc or "musl", version or "1.2"])


def login(home: str) -> dict[str, Any]:
    """Who we are on the host."""
    user, group = name_of(pwd.getpwuid, os.getuid()), name_of(grp.getgrgid, os.getgid())
    return {"name": user, "group": group, "uid": os.getuid(), "home": home}


def complete_versions(directory: str) -> list[str]:
    """The versions whose installation went to its end."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return [name for name in names if os.path.exists(os.path.join(directory, name, ".complete"))]


def main(arguments: dict[str, Any]) -> None:
    """Look and print.

    Args:
        arguments: the ``scope``; the paths ``prefix``, ``config_dir``, ``data_dir`` and ``command``; the names ``user``
            and ``group``; ``listen``, worker to address where that is not its socket; and the ``server`` to reach:
            ``url`` ("" for none), ``ca`` (PEM text) and ``proxies``.
    """
    system = arguments["scope"] == "system"
    home = os.path.expanduser("~")
    paths = {name: os.path.expanduser(arguments[name]) for name in ("prefix", "config_dir", "data_dir", "command")}
    prefix, config_dir = paths["prefix"], paths["config_dir"]
    paths["unit_dir"] = "/etc/systemd/system" if system else os.path.join(home, ".config/systemd/user")
    paths["run_dir"] = "/run/runqy-agent" if system else os.path.join(prefix, "run")
    versions = os.path.join(prefix, "versions")
    credentials = os.path.join(config_dir, "credentials")
    directories = [
        prefix,
        versions,
        config_dir,
        paths["data_dir"],
        os.path.dirname(paths["command"]),
        paths["unit_dir"],
    ]
    directories += [os.path.join(config_dir, "environment"), credentials]
    directories += ["/var/lib/runqy-agent-heal" if system else os.path.join(prefix, "heal")]
    for parent in (credentials, paths["data_dir"], paths["run_dir"]):
        directories += glob.glob(os.path.join(glob.escape(parent), "*"))
    current = os.path.join(prefix, "current")
    sockets = glob.glob(os.path.join(glob.escape(paths["run_dir"]), "*", "status.sock"))
    addresses = {os.path.basename(os.path.dirname(path)): path for path in sockets} | arguments["listen"]
    release = os_release()
    found = {
        "python": python(),
        "target": target(),
        "system": {
            "name": release.get("pretty_name", platform.system()),
            "ids": [release.get("id", ""), *release.get("id_like", "").split()],
            "version": release.get("version_id", ""),
        },
        "systemd": systemd(paths["unit_dir"], system=system),
        "missing_programs": [name for name in ("git", "tar") if shutil.which(name) is None],
        "free_megabytes": {name: free_megabytes(paths[name]) for name in ("prefix", "data_dir")},
        "now": time.time(),
        "server": ask_server(**arguments["server"]) if arguments["server"]["url"] else None,
        "login": login(home),
        "account": account(arguments["user"], arguments["group"]),
        "paths": paths,
        "directories": {path: attributes(path) for path in directories if os.path.isdir(path)},
        "files": managed_files(paths),
        "versions": complete_versions(versions),
        "current": os.path.basename(os.readlink(current)) if os.path.islink(current) else "",
        "previous": os.path.exists(os.path.join(config_dir, "previous.tar")),
        "restart_pending": os.path.exists(os.path.join(config_dir, ".restart-pending")),
        "workers": {label: worker_status(address) for label, address in addresses.items()},
    }
    print(json.dumps(found))
