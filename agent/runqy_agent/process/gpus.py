"""Which GPUs there are for the processes of a pool."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from runqy_agent.child_environment import ACCELERATORS, EVERY_CHILD, inherit
from runqy_agent.spawning import create

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

QUERY_SECONDS = 20.0
"""How long nvidia-smi may take: with many cards and a driver that has just been loaded it is slow."""
KILLED_SECONDS = 1.0
_VARIABLE = "CUDA_VISIBLE_DEVICES"
_NONE = frozenset({"", "-1", "none", "void", "NoDevFiles"})


async def find_gpus(environ: Mapping[str, str] | None = None) -> list[str]:
    """The GPUs that this worker may use, as CUDA names them: indices, or ids where it was given those.

    If ``CUDA_VISIBLE_DEVICES`` is set for the worker, those and no others, such as for one of several workers of a
    host. Else all that ``nvidia-smi`` knows. None if there is no nvidia-smi or it finds none.

    Args:
        environ: the worker's environment.
    """
    environ = os.environ if environ is None else environ
    if _VARIABLE in environ:
        return [name.strip() for name in environ[_VARIABLE].split(",") if name.strip() not in _NONE]
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return []
    output = await _ask(program, inherit(EVERY_CHILD | ACCELERATORS, environ))
    return [line.strip() for line in output.splitlines() if line.strip().isdigit()]


async def _ask(program: str, env: Mapping[str, str]) -> str:
    try:
        process = await create(
            (program, "--query-gpu=index", "--format=csv,noheader"),
            environment=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        log.warning("%s cannot be started, no GPU is used: %s", program, error)
        return ""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), QUERY_SECONDS)
    except asyncio.TimeoutError:
        log.warning("%s did not answer within %g s, no GPU is used", program, QUERY_SECONDS)
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(asyncio.TimeoutError):  # with a driver in trouble not even that ends it
            await asyncio.wait_for(process.communicate(), KILLED_SECONDS)
        return ""
    if process.returncode:
        log.warning("%s failed with exit code %d, no GPU is used", program, process.returncode)
        return ""
    return output.decode("utf-8", "replace")
