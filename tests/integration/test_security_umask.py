"""The umask is set, not inherited: a worker started with any writes files for its user and group alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from stage import Agent, until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Stage

AUTHOR = """
import json, os, sys
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    mask = os.umask(0)
    os.umask(mask)
    print(json.dumps({"task_id": task["task_id"], "result": mask}), flush=True)
"""


@pytest.mark.parametrize("inherited", [0o000, 0o022, 0o077, 0o777])
def test_what_a_worker_and_its_children_write_is_for_its_user_and_group_whatever_it_inherits(
    inherited: int, stage: Stage, tmp_path: Path
) -> None:
    stage.queue("inference", {"main.py": AUTHOR, "requirements.txt": "# nothing\n"})
    deployments = tmp_path / "deployments"
    mask = os.umask(inherited)
    try:
        agent: Agent = stage.agent(deployment_dir=deployments)
    finally:
        os.umask(mask)
    agent.wait_running()
    task = stage.client.enqueue("inference.default", b"0")
    until(lambda: stage.state("inference.default", task) == "completed", "the task is completed")
    info = stage.client.info("inference.default", task)
    assert info is not None
    assert info.result == str(0o027).encode()
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (deployments, *deployments.rglob("*"))
        if not path.is_symlink()
    }
    assert {oct(mode) for path, mode in modes.items() if path.name == "main.py"} == {"0o640"}
    assert {oct(mode) for path, mode in modes.items() if path.name in {"deployments", "code"}} == {"0o750"}
    assert [path for path, mode in modes.items() if mode & 0o022 or not mode & 0o400] == []
    assert agent.terminate() == 0
