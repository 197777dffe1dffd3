"""Which Python the task author's code runs on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import msgspec

from runqy_agent.child_environment import EVERY_CHILD, inherit
from runqy_agent.deployment.commands import Command, run
from runqy_agent.errors import EnvironmentBuildError

_OLDEST = (3, 8)
_SECONDS = 30.0
_QUESTIONS = """\
import sys
if sys.version_info < (3, 4):
    print('{"executable": "", "version": [%d, %d, 0], "implementation": "", "ensurepip": false}' % sys.version_info[:2])
else:
    import json, importlib.util as util
    print(json.dumps({"executable": sys.executable, "version": sys.version_info[:3],
                      "implementation": sys.implementation.cache_tag, "ensurepip": bool(util.find_spec("ensurepip"))}))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """A Python interpreter as it described itself.

    Attributes:
        executable: its absolute path, a virtual environment's link not resolved.
        version: major, minor, micro.
        implementation: its cache tag, as in ``cpython-312``.
        ensurepip: whether it can put pip into a new environment (Debian leaves that to ``python3-venv``).
    """

    executable: str
    version: tuple[int, int, int]
    implementation: str
    ensurepip: bool

    @property
    def version_text(self) -> str:
        """The version as people write it: ``3.12.1``."""
        return ".".join(map(str, self.version))

    @property
    def identity(self) -> list[str]:
        """What an environment built with it depends on."""
        return [str(Path(self.executable).resolve()), self.version_text, self.implementation]


async def find_python(configured: str) -> Interpreter:
    """Find the interpreter and ask it what it is, with one short subprocess.

    Nothing is cached: a pyenv shim, the one slow case, changes its answer without changing its file.

    Args:
        configured: ``deployment.python``: a path, a name on PATH, or empty for ``python3`` on PATH. Names are never
            found in the agent's own virtual environment.

    Raises:
        EnvironmentBuildError: there is none, it does not run, or it is older than 3.8.
    """
    path = _locate(configured)
    out = await run(
        Command(
            [path, "-I", "-c", _QUESTIONS],
            purpose=f"asking {path} for its version",
            env=inherit(EVERY_CHILD),
            error=EnvironmentBuildError,
            seconds=_SECONDS,
        )
    )
    try:
        interpreter = msgspec.json.decode(out, type=Interpreter)
    except msgspec.DecodeError as strange:
        raise EnvironmentBuildError(f"{path} does not answer like a Python interpreter: {out[:200]!r}") from strange
    if interpreter.version < _OLDEST or not interpreter.executable:
        raise EnvironmentBuildError(
            f"{path} is Python {interpreter.version_text}; task code needs 3.8 or newer: set deployment.python"
        )
    return interpreter


def _locate(configured: str) -> str:
    name = configured or "python3"
    if "/" in name:
        path = Path(name).expanduser().absolute()
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise EnvironmentBuildError(f"deployment.python: {path} is no program this user can run")
        return str(path)
    found = shutil.which(name, path=_path_without_own_environment())
    if found is None:
        raise EnvironmentBuildError(
            f"{name} was not found on PATH (the agent's own virtual environment does not count); "
            "install it, or set deployment.python to the path of an interpreter"
        )
    return found


def _path_without_own_environment() -> str:
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        own = Path(sys.prefix).resolve()
        directories = [name for name in directories if not Path(name).resolve().is_relative_to(own)]
    return os.pathsep.join(directories)
