"""How a process of the task author is started."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    """

    argv: tuple[str, ...]
    cwd: Path
    env: dict[str, str] = field(repr=False)
    startup_timeout: float = 300.0
    max_message_bytes: int = 32 * 1024 * 1024
    label: str = ""
    redact: Callable[[str], str] = str


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
