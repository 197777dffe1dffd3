"""What goes on until the last task has ended: a drain may take hours, and nobody else may take the tasks meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recorder import Recorder, gated, hasty
from runqy_agent.broker import keys
from stage import until

if TYPE_CHECKING:
    from stage import Stage

QUEUE = "inference.default"


def test_while_it_drains_a_worker_renews_its_leases_and_beats(stage: Stage) -> None:
    recorder, gate = Recorder(stage), stage.directory / "gate"
    agent = stage.agent(environment=hasty(stage.directory), shutdown_timeout="10h").wait_running()
    task_id = stage.client.enqueue(QUEUE, gated(gate))
    until(recorder.runs, "the task is running")

    def lease() -> float:
        ends = stage.redis.zscore(keys.queue_keys(QUEUE).lease, task_id)
        assert ends is not None
        return float(ends)

    agent.process.terminate()
    until(lambda: agent.record().get("status") == "draining", "it drains")
    ended, beaten = lease(), int(agent.record()["last_beat"])
    for _ in range(2):
        until(lambda: lease() > ended, "the lease is renewed")  # noqa: B023 - used at once
        until(lambda: int(agent.record()["last_beat"]) > beaten, "it beats")  # noqa: B023 - used at once
        ended, beaten = lease(), int(agent.record()["last_beat"])
    assert agent.record()["status"] == "draining"
    gate.touch()
    assert agent.wait() == 0
    info = stage.client.info(QUEUE, task_id)
    assert info is not None
    assert (info.state, info.message.retried) == ("completed", 0)
    assert agent.record() == {}
