"""What the operator of a host does not allow is neither fetched nor run, at the start and later."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from runqy_agent.errors import ExitCode
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Stage

QUEUE = "inference.default"


def bounds(directory: Path, **allowed: list[str]) -> Path:
    path = directory / "config.yml"
    path.write_text(json.dumps({"deployment": allowed}), encoding="utf-8")
    return path


def test_a_repository_that_is_not_allowed_is_not_fetched(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = stage.agent(config_file=bounds(tmp_path, allowed_repositories=["https://git.example.com/*"]))
    assert agent.wait() == ExitCode.DEPLOYMENT
    assert "deployment.allowed_repositories" in agent.log()
    assert "fetching" not in agent.log()


def test_a_command_that_is_not_allowed_is_not_run_and_nothing_is_fetched_for_it(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference", startup_cmd="python other.py")
    agent = stage.agent(config_file=bounds(tmp_path, allowed_commands=["python main.py"]))
    assert agent.wait() == ExitCode.DEPLOYMENT
    assert "deployment.allowed_commands" in agent.log()
    assert "fetching" not in agent.log()


def test_a_redeployment_does_not_go_beyond_the_bounds_and_the_old_code_serves_on(stage: Stage, tmp_path: Path) -> None:
    stage.queue("inference")
    agent = stage.agent(config_file=bounds(tmp_path, allowed_commands=["python main.py"])).wait_running()
    stage.server.queues["inference"].deployment["startup_cmd"] = "python other.py"
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: "redeploying queue inference: failed" in agent.log(), "it is refused")
    assert "deployment.allowed_commands" in agent.log()
    assert agent.log().count("fetching") == agent.log().count("waiting until it is ready") == 1
    task_id = stage.client.enqueue(QUEUE, b"{}")
    assert stage.until_state(QUEUE, task_id, "completed", "archived", "retry") == "completed"
    assert agent.terminate() == 0
