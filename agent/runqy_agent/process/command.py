"""How a process of the task author is started."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from runqy_agent.errors import DeploymentError
from runqy_agent.process.printing import PrintBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_PYTHON = re.compile(r"(python|pypy)\d*(\.\d+)?t?")
_WRAPPERS = {"env", "nice", "ionice", "nohup", "stdbuf", "timeout", "taskset", "numactl", "chrt", "setsid"}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


class Printed(NamedTuple):
    """A line that a process has printed.

    Attributes:
        source: ``stdout`` or ``stderr``.
        text: without secrets.
        queue: the parent queue.
        pid: of the process.
    """

    source: str
    text: str
    queue: str
    pid: int


@dataclass(frozen=True)
class Command:
    """How to start the process.

    Attributes:
        argv: program and arguments; nothing passes through a shell.
        cwd: its working directory.
        env: its whole environment.
        startup_timeout: seconds until it must be ready.
        max_message_bytes: longest line accepted from it.
        label: the parent queue, for the log.
        redact: takes secrets out of what the process prints before it becomes part of an error.
        redact_cut: the same for text whose end was cut off, where half a secret may be left.
        on_print: is given each line that the process prints, without secrets.
        budget: how much of what it prints is logged; shared by all processes that are started so.
        gpu: which GPUs it sees, as CUDA names them; "" for whatever there is.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: dict[str, str] = field(repr=False)
    startup_timeout: float = 300.0
    max_message_bytes: int = 32 * 1024 * 1024
    label: str = ""
    redact: Callable[[str], str] = str
    redact_cut: Callable[[str], str] = str
    on_print: Callable[[Printed], None] = lambda _: None
    budget: PrintBudget = field(default_factory=PrintBudget, repr=False, compare=False)
    gpu: str = ""

    def on_gpu(self, gpu: str) -> Command:
        """The same, seeing this GPU alone."""
        # nvidia-smi counts the cards as they sit on the bus; CUDA would count the fastest first.
        env = self.env | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
        return replace(self, env=env, gpu=gpu)


def split_command(text: str, python: Path) -> tuple[str, ...]:
    """Split a start command as a shell would; ``python`` and ``python3`` become the virtualenv's.

    Raises:
        DeploymentError: nothing to start, or an open quote.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise DeploymentError(f"deployment.startup_cmd {text!r} cannot be split into words: {error}") from error
    if not words:
        raise DeploymentError("deployment.startup_cmd is empty; it must name what to start, such as `python main.py`")
    if words[0] in {"python", "python3"}:
        words[0] = str(python)
    return tuple(words)


def check_program(argv: Sequence[str], environment: Path, directory: Path) -> None:
    """Check that what is started is of the environment, and can be started at all.

    Args:
        argv: the start command, split.
        environment: the virtual environment.
        directory: the working directory.

    Raises:
        DeploymentError: it names an interpreter that is not the environment's, or a script with Windows line ends.
    """
    names = argv if argv[0].rpartition("/")[2] in _WRAPPERS else argv[:1]
    named = next((word for word in names if _PYTHON.fullmatch(word.rpartition("/")[2])), "")
    own = environment / "bin"
    if named and (environment / "pyvenv.cfg").is_file():
        path = directory / named if "/" in named else own / named
        if not path.exists() or path.parent.resolve() != own.resolve():
            versions = ", ".join(sorted(each.name for each in (environment / "lib").glob("python*"))) or "another"
            raise DeploymentError(
                f"deployment.startup_cmd starts {named}{_version_of(path)}, which is not the interpreter of the "
                f"environment ({versions}) and sees none of its packages: write `python`, and set deployment.python if "
                "another version is meant"
            )
    scripts = argv[1:2] if argv[0].rpartition("/")[2] in _SHELLS else argv[:1]
    for script in (directory / word for word in scripts if not word.startswith("-")):
        if script.is_file() and _has_windows_line_ends(script):
            raise DeploymentError(
                f"deployment.startup_cmd starts {script.name}, which has Windows line ends (CRLF) and cannot run with "
                "them: commit it with LF (`*.sh text eol=lf` in .gitattributes keeps it so)"
            )


def _version_of(path: Path) -> str:
    """The version that the name of an interpreter tells, where its links lead."""
    name = path.resolve().name
    return f" ({name})" if path.is_symlink() and name != path.name else ""


def _has_windows_line_ends(script: Path) -> bool:
    with script.open("rb") as file:
        return file.readline(1024).endswith(b"\r\n")
