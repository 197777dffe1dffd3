"""The commands on a worker's host, with whole workers: what needs Redis or a restart. See ``test_status.py`` too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from commands_kit import Systemd
from runqy_agent.commands.endpoint import Endpoint
from stage import until

if TYPE_CHECKING:
    from pathlib import Path

    from stage import Stage

RUN = [sys.executable, "-m", "runqy_agent"]


def test_the_fleet_is_found_in_the_flat_layout_too(stage: Stage) -> None:
    stage.queue("inference")
    agent = stage.agent(redis_layout="flat").wait_running()
    environment = {"RUNQY_SERVER_URL": stage.server.url, "RUNQY_API_KEY": stage.server.api_key}
    environment |= {"RUNQY_QUEUES": "inference", "RUNQY_REDIS_LAYOUT": "flat"}
    told = subprocess.check_output([*RUN, "status", "--fleet", "--json"], env=os.environ | environment, timeout=60)
    (worker,) = json.loads(told)["workers"]
    assert (worker["worker_id"].split(":")[1], worker["healthy"]) == (str(agent.pid), True)


def test_heal_replaces_a_worker_that_was_given_up(stage: Stage, tmp_path: Path) -> None:
    directory, address = tmp_path / "systemd", str(tmp_path / "status.sock")
    directory.mkdir()
    systemd = Systemd(directory)
    stage.queue("inference")
    agent = stage.agent(status_listen=address, recovery_max_restarts=0).wait_running()
    stage.client.enqueue("inference.default", b'{"die": 3}')
    endpoint = Endpoint(address)
    until(lambda: endpoint.must_answer()["processes"]["inference"]["state"] == "degraded", "it is given up")
    options = ["--address", address, "--unit", "u", "--records", str(tmp_path / "records"), "--json"]
    path = systemd.path + os.pathsep + os.environ["PATH"]
    with subprocess.Popen([*RUN, "heal", *options], stdout=subprocess.PIPE, env=os.environ | {"PATH": path}) as healing:
        until(lambda: systemd.restarted, "a restart is asked for")
        agent.terminate()
        new = stage.agent(status_listen=address)
        result = json.loads(healing.communicate(timeout=90)[0])
    assert (healing.returncode, result["state"], result["action"]) == (0, "degraded", "restarted")
    assert result["before"].split(":")[1] == str(agent.pid)
    assert result["worker_id"].split(":")[1] == str(new.pid)
