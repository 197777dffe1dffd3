"""What goes wrong at start ends in a clear line and its exit code, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runqy_agent.demo.redis_server import free_port
from runqy_agent.errors import ExitCode
from stage import until

if TYPE_CHECKING:
    from stage import Stage

NOT_READY = "import sys\nprint('bad weights', file=sys.stderr)\nsys.exit(4)\n"
SAYS_ERROR = 'print(\'{"status": "error", "error": "no GPU"}\', flush=True)\ninput()\n'
FORGETS_RUN = "def handle(task):\n    return 1\n"
SILENT = "import time\ntime.sleep(600)\n"


def assert_no_worker(stage: Stage) -> None:
    assert list(stage.redis.scan_iter("asynq:workers*")) == []
    assert list(stage.redis.scan_iter("asynq:servers*")) == []


def test_a_refused_key_ends_with_3(stage: Stage) -> None:
    stage.queue("inference")
    agent = stage.agent(api_key="wrong-key-here")
    assert agent.wait() == ExitCode.REGISTRATION
    assert "401" in agent.log()
    assert "wrong-key-here" not in agent.log()


def test_an_unreachable_redis_ends_with_6(stage: Stage) -> None:
    stage.queue("inference")
    agent = stage.agent(redis_address=f"127.0.0.1:{free_port()}")
    assert agent.wait() == ExitCode.BROKER
    assert "redis at 127.0.0.1" in agent.log().lower()


def test_an_unknown_branch_ends_with_4_and_is_named(stage: Stage) -> None:
    stage.queue("inference", branch="mian")
    agent = stage.agent()
    assert agent.wait() == ExitCode.DEPLOYMENT
    assert "mian" in agent.log()
    assert_no_worker(stage)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (NOT_READY, "bad weights"),
        (SAYS_ERROR, "no GPU"),
        (SILENT, "not ready within 1 s"),
        (FORGETS_RUN, "does not call run()"),
    ],
    ids=["exits", "says error", "stays silent", "forgets run"],
)
@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_process_that_does_not_become_ready_ends_with_5_and_its_reason(
    stage: Stage, code: str, reason: str, mode: str
) -> None:
    stage.queue("inference", {"main.py": code}, mode=mode, startup_timeout_secs=1 if code is SILENT else 60)
    agent = stage.agent()
    assert agent.wait() == ExitCode.PROCESS_NOT_READY
    assert reason in agent.log()
    assert_no_worker(stage)


@pytest.mark.parametrize("mode", ["long_running", "one_shot"])
def test_a_vault_value_that_a_failing_process_prints_is_in_no_error(stage: Stage, mode: str) -> None:
    code = "import os, sys\nprint('token is', os.environ['TOKEN'], file=sys.stderr)\nsys.exit(4)\n"
    stage.queue("inference", {"main.py": code}, mode=mode)
    stage.server.queues["inference"].vaults = {"TOKEN": "vault-value-5678"}
    agent = stage.agent()
    assert agent.wait() == ExitCode.PROCESS_NOT_READY
    assert "token is ***" in agent.log()
    assert "vault-value-5678" not in agent.log()


def test_a_stop_during_the_start_is_clean(stage: Stage) -> None:
    stage.queue("inference", {"main.py": SILENT})
    agent = stage.agent()
    until(lambda: agent.record().get("status") == "bootstrapping", "the worker shows itself before the slow steps")
    assert agent.terminate() == 0
    assert_no_worker(stage)
