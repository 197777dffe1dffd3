"""Install one version of the agent into a virtual environment of its own.

Runs on the host, with the Python that the environment is made from. The caller appends the call of ``main``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

COMPLETE = ".complete"


def fail(message: str) -> None:
    """End with a message."""
    sys.exit(message)


def run(*command: str | Path, environment: dict[str, str]) -> str:
    """Run a program. Returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    if done.returncode != 0:
        end = (done.stderr or done.stdout).strip().splitlines()[-15:]
        fail(f"{command[0]} failed with exit code {done.returncode}:\n" + "\n".join(end))
    return done.stdout


def unpack(archive: Path, sha256: str, into: Path) -> None:
    """Check an archive and take it apart."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        fail(f"{archive} was damaged on its way: checksum {found} instead of {sha256}. Run the playbook again.")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if not member.isfile() or "/" in member.name or not member.name.endswith(".whl"):
                fail(f"{archive} holds {member.name}, which is not a wheel")
        tar.extraction_filter = lambda member, _: member  # its members were looked at above
        tar.extractall(into)  # noqa: S202


def main(
    directory: str, requirement: str, archive: str, sha256: str, *, use_index: bool, environment: dict[str, str]
) -> None:
    """Make the environment. It counts as there when the file ``.complete`` is in it.

    Args:
        directory: where; what is there of an earlier try is removed.
        requirement: what pip installs.
        archive: wheels to install it from; "" for none.
        sha256: their checksum.
        use_index: whether pip may ask a package index.
        environment: variables for pip.
    """
    os.umask(0o022)
    home = Path(directory)
    wheels = home / "wheels"
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    if archive:
        wheels.mkdir()
        unpack(Path(archive), sha256, wheels)
        options += ["--find-links", str(wheels)]
    carried = sorted(wheels.glob("pip-*.whl"))
    if carried:
        pip: list[str | Path] = [python, carried[-1] / "pip"]
    else:
        run(python, "-m", "ensurepip", environment={})
        pip = [python, "-m", "pip"]
    run(*pip, "install", *options, *([] if use_index else ["--no-index"]), requirement, environment=environment)
    printed = run(home / "bin" / "runqy-agent", "version", environment={})
    shutil.rmtree(wheels, ignore_errors=True)
    if archive:
        Path(archive).unlink()
    (home / COMPLETE).touch()
    print(json.dumps({"installed": directory, "says": printed.strip()}))
