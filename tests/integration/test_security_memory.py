"""A process of the same user, such as the task author's, reads no secret from the agent's environment or memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stage import author_code

if TYPE_CHECKING:
    from stage import Stage

# Root may read everything. Without capabilities, its own and those of programs it starts, it is a user like any other.
WITHOUT_CAPABILITIES = """
import ctypes
libc = ctypes.CDLL(None)
for capability in range(64):
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
"""
LOOK = """
import json, sys
seen = {}
for name in ("environ", "maps"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            seen[name] = bool(file.read(1))
    except PermissionError:
        seen[name] = False
try:
    open(f"/proc/{sys.argv[1]}/mem", "rb").close()
    seen["mem"] = True
except PermissionError:
    seen["mem"] = False
print(json.dumps(seen))
"""
WAIT = "print(flush=True); input()"


def readable(pid: int) -> dict[str, bool]:
    """What a process of the same user can read of another one."""
    program = WITHOUT_CAPABILITIES + LOOK
    done = subprocess.run(
        [sys.executable, "-c", program, str(pid)], capture_output=True, text=True, timeout=60, check=True
    )
    seen: dict[str, bool] = json.loads(done.stdout)
    return seen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc and PR_SET_DUMPABLE")
def test_the_agents_environment_and_memory_are_closed_and_those_of_its_children_are_not(
    stage: Stage, tmp_path: Path
) -> None:
    bystander = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_CAPABILITIES + WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert bystander.stdout is not None
        bystander.stdout.readline()
        seen = readable(bystander.pid)
        assert seen["environ"], "this test could not fail"
        assert seen["maps"]  # "mem" may be closed for all by the system (Yama)
    finally:
        bystander.communicate(b"\n")
    stage.queue("inference", author_code())
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_CAPABILITIES)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    agent = stage.agent(environment={"PYTHONPATH": path}).wait_running()
    assert readable(agent.pid) == {"environ": False, "mem": False, "maps": False}
    (child,) = map(int, Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="utf-8").split())
    assert readable(child)["environ"]
