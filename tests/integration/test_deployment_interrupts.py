"""A deployment that is given up while a command runs ends the command, and asyncio has nothing to complain about."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, os, signal, sys
from runqy_agent.deployment.commands import Command, run
from runqy_agent.errors import GitError

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    command = Command(["sh", "-c", sys.argv[1]], "testing", dict(os.environ), GitError, 600.0)
    work = asyncio.ensure_future(run(command))
    while sys.argv[2] and not os.path.exists(sys.argv[2]):
        await asyncio.sleep(0.01)
    if not sys.argv[2]:
        await asyncio.sleep(0)  # it is being started
    os.kill(os.getpid(), signal.SIGTERM)
    await stop.wait()
    work.cancel()
    await asyncio.wait([work])
    print("cancelled", work.cancelled())

asyncio.run(main())
"""


@pytest.mark.parametrize("begun", [True, False], ids=["while it runs", "while it starts"])
@pytest.mark.parametrize(
    "script",
    ["touch $MARK; exec sleep 600", "touch $MARK; sleep 600 & wait", "touch $MARK; trap '' TERM; sleep 600; sleep 600",
     "touch $MARK; exec yes", "touch $MARK; setsid sleep 5 & exec sleep 600"],
    ids=["waits", "has a child", "ignores SIGTERM", "floods", "leaves the group"],
)  # fmt: skip
def test_a_command_that_is_interrupted_leaves_no_traceback_of_asyncio(
    script: str, tmp_path: Path, *, begun: bool
) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-X", "dev", "-c", PROGRAM, script, str(mark) if begun else ""]
    env = os.environ | {"MARK": str(mark)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout == "cancelled True\n"
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr
    assert "unclosed" not in done.stderr
    assert done.returncode == 0
