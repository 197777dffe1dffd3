"""Build, on the controller, what hosts install the agent from: for each kind of host one archive of wheels.

Everything is kept in a cache directory under a name that tells its content, so that nothing is built twice. Prints
one JSON object: the ``version``, the ``id`` to install it under, whether anything was ``built``, and the ``archives``,
target to ``path`` and ``sha256``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import Marker

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "agent")
TOOLS = ("pip", "hatchling>=1.24")
OLDEST_GLIBC_MINOR = 5
NEWEST_MUSL_MINOR = 2
TIMEOUT_SECONDS = 600


class BuildError(Exception):
    """Something is missing or does not fit; the text says what to do."""


def run(*command: str | Path) -> str:
    """Run a program. Returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        end = (done.stderr or done.stdout).strip().splitlines()[-15:]
        raise BuildError(f"{' '.join(str(word) for word in command[:6])} … failed:\n" + "\n".join(end))
    return done.stdout


def files_of(source: Path) -> Iterator[Path]:
    """The files that the wheel is made from, in a fixed order."""
    for name in SOURCES:
        path = source / name
        if not path.exists():
            raise BuildError(
                f"{path} is missing: runqy_agent_checkout must hold the source of runqy-agent, or be its collection"
            )
        found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        yield from (each for each in found if "__pycache__" not in each.parts)


def source_digest(source: Path, lock: Path) -> str:
    """What the wheels depend on, as a hash."""
    digest = hashlib.sha256(lock.read_bytes())
    for path in files_of(source):
        digest.update(f"\0{path.relative_to(source).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def file_digest(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_version(source: Path) -> str:
    """The version that a checkout calls itself."""
    text = (source / "agent/runqy_agent/_version.py").read_text(encoding="utf-8")
    match = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    if match is None:
        raise BuildError(f"{source}/agent/runqy_agent/_version.py names no version")
    return match[1]


def wheel_version(wheel: Path) -> str:
    """The version in a wheel's name."""
    match = re.fullmatch(r"runqy_agent-([^-]+)-.*\.whl", wheel.name)
    if match is None:
        raise BuildError(f"{wheel} is not a wheel of runqy-agent")
    return match[1]


def tools(cache: Path) -> Path:
    """A Python with pip and the build backend. Ansible's own may have neither."""
    directory = cache / f"tools-{sys.version_info[0]}.{sys.version_info[1]}"
    python = directory / "bin" / "python"
    if not (directory / ".complete").exists():
        venv.create(directory, clear=True, with_pip=True)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *TOOLS)
        (directory / ".complete").touch()
    return python


def requirements_for(lock: Path, target: Target) -> str:
    """Those lines of the lock file that concern a target, without their conditions."""
    blocks: list[str] = []
    for line in lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement, _, comment = line.partition(" #")
        if not requirement.strip() or requirement.startswith("#"):
            continue
        words = requirement.split("--hash=")
        name, _, marker = words[0].partition(";")
        if not marker.strip() or target.satisfies(marker.strip()):
            blocks.append(" ".join([name.strip(), *(f"--hash={word.strip()}" for word in words[1:])]))
        del comment
    return "\n".join(blocks) + "\n"


class Target:
    """A kind of host: ``cpython-311-x86_64-glibc-2.36``."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"cpython-3(\d+)-(\w+)-(glibc|musl)-(\d+)\.(\d+)[\w.]*", text)
        if match is None:
            raise BuildError(f"{text}: no wheels can be chosen for such a host; CPython on Linux is needed")
        self.text = text
        self.minor, self.machine, self.libc, self.libc_minor = int(match[1]), match[2], match[3], int(match[5])

    def satisfies(self, marker: str) -> bool:
        """Whether a condition of the lock file holds for some version of that Python; which, the host's pip knows."""
        for micro in (0, 99):
            environment = {
                "python_version": f"3.{self.minor}",
                "python_full_version": f"3.{self.minor}.{micro}",
                "implementation_name": "cpython",
                "implementation_version": f"3.{self.minor}.{micro}",
                "platform_python_implementation": "CPython",
                "platform_machine": self.machine,
                "platform_system": "Linux",
                "sys_platform": "linux",
                "os_name": "posix",
            }
            if Marker(marker).evaluate(environment):
                return True
        return False

    def pip_options(self) -> list[str]:
        """What makes pip choose wheels for it instead of for the controller."""
        tag = f"cp3{self.minor}"
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version=3.{self.minor}"]
        options += [f"--abi={abi}" for abi in (tag, "abi3", "none")]
        if self.libc == "glibc":
            platforms = [f"manylinux_2_{minor}" for minor in range(self.libc_minor, OLDEST_GLIBC_MINOR - 1, -1)]
            platforms += ["manylinux2014", "manylinux2010", "manylinux1"]
        else:
            platforms = [f"musllinux_1_{minor}" for minor in range(NEWEST_MUSL_MINOR, -1, -1)]
        return options + [f"--platform={platform}_{self.machine}" for platform in (*platforms, "linux")]


def pack(directory: Path, archive: Path) -> None:
    """Put the files of a directory into an archive; it appears whole or not at all."""
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for path in sorted(directory.glob("*.whl")):
            tar.add(path, arcname=path.name)
    partial.replace(archive)


def fill(wheels: Path, wheel: Path, lock: Path, target: Target, python: Path) -> None:
    """Gather the agent's wheel and those of everything it needs on a target."""
    requirements = wheels / "requirements.txt"
    requirements.write_text(requirements_for(lock, target), encoding="utf-8")
    download = [
        python,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]
    try:
        run(*download, *target.pip_options(), "--dest", wheels, "--requirement", requirements)
    except BuildError as error:
        raise BuildError(f"the wheels for {target.text} cannot be had: {error}") from None
    shutil.copy(wheel, wheels)


def from_checkout(source: Path, lock: Path, cache: Path, targets: list[str]) -> dict[str, object]:
    """Build the wheel, and an archive for each target that has none yet."""
    version = source_version(source)
    identity = f"{version}+{source_digest(source, lock)}"
    directory = cache / identity
    built = False
    archives = {}
    for target in map(Target, targets):
        archive = directory / f"{target.text}.tar"
        if not archive.exists():
            built = True
            python = tools(cache)
            directory.mkdir(parents=True, exist_ok=True)
            wheels = list(directory.glob("runqy_agent-*.whl"))
            if not wheels:
                options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
                run(python, "-m", "pip", "wheel", *options, "--wheel-dir", directory, source)
                wheels = list(directory.glob("runqy_agent-*.whl"))
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                fill(Path(scratch), wheels[0], lock, target, python)
                pack(Path(scratch), archive)
        archives[target.text] = {"path": str(archive), "sha256": file_digest(archive)}
    return {"version": version, "id": identity, "built": built, "archives": archives}


def from_files(wheels: list[Path], cache: Path, targets: list[str]) -> dict[str, object]:
    """One archive of given wheels, for all targets."""
    agents = [wheel for wheel in wheels if wheel.name.startswith("runqy_agent-")]
    if len(agents) != 1:
        raise BuildError(
            f"exactly one wheel of runqy-agent is needed, found: {', '.join(each.name for each in agents) or 'none'}"
        )
    digest = hashlib.sha256()
    for wheel in sorted(wheels):
        digest.update(wheel.name.encode() + wheel.read_bytes())
    version = wheel_version(agents[0])
    identity = f"{version}+{digest.hexdigest()[:12]}"
    archive = cache / identity / "wheels.tar"
    built = not archive.exists()
    if built:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            for wheel in wheels:
                shutil.copy(wheel, scratch)
            pack(Path(scratch), archive)
    described = {"path": str(archive), "sha256": file_digest(archive)}
    return {"version": version, "id": identity, "built": built, "archives": dict.fromkeys(targets, described)}


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Two playbooks at once do not build the same thing."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkout", type=Path)
    what.add_argument("--wheelhouse", type=Path)
    what.add_argument("--wheel", type=Path)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    cache = arguments.cache.expanduser()
    os.umask(0o022)
    try:
        with locked(cache):
            if arguments.checkout:
                result = from_checkout(
                    arguments.checkout.expanduser().resolve(), arguments.lock, cache, arguments.targets
                )
            elif arguments.wheelhouse:
                result = from_files(sorted(arguments.wheelhouse.expanduser().glob("*.whl")), cache, arguments.targets)
            else:
                result = from_files([arguments.wheel.expanduser()], cache, arguments.targets)
    except (BuildError, OSError) as error:
        sys.exit(str(error))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
