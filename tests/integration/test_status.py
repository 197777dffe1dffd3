"""What a worker tells on its host, and what the commands there do with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from host_kit import Manager, asked, command
from runqy_agent._version import __version__
from stage import Agent, author_code, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stage import Stage


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "status.sock")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory of this user's, with a short name: that of a socket is limited."""
    with tempfile.TemporaryDirectory(prefix="rq-") as path:
        yield Path(path)


@pytest.fixture
def agent(stage: Stage, address: str) -> Agent:
    stage.queue("inference", sub_queues={"inference.high": 9, "inference.low": 3})
    return stage.agent(status_listen=address, concurrency=2).wait_running()


def test_the_status_names_the_worker_its_queues_and_its_process_and_no_secret(
    stage: Stage, agent: Agent, address: str
) -> None:
    status = asked("status", "--address", address)
    assert status["pid"] == agent.pid
    assert status["version"] == __version__ == agent.record()["version"]
    assert status["queues"] == {"inference.high": 9, "inference.low": 3}
    assert status["processes"]["inference"]["state"] == "ready"
    assert len(status["processes"]["inference"]["commit"]) == 40
    assert status["redis"]["address"]
    assert status["now"] - status["redis"]["last_beat"] < 30
    assert stage.server.api_key not in json.dumps(status)
    assert f"{status['worker_id']}" in command("status", "--address", address).stdout


def test_only_the_owner_and_the_group_can_ask(agent: Agent, address: str) -> None:
    assert stat.S_IMODE(Path(address).stat().st_mode) == 0o660


def test_the_socket_of_a_killed_worker_is_replaced_and_that_of_a_living_one_is_not(
    stage: Stage, agent: Agent, address: str
) -> None:
    other = stage.agent(status_listen=address)
    assert other.wait() == 2
    assert "status.listen: cannot listen on" in other.log()
    agent.kill()
    assert stage.agent(status_listen=address).wait_running().pid == asked("status", "--address", address)["pid"]


def test_health_is_zero_for_a_healthy_worker_and_one_for_none(agent: Agent, address: str) -> None:
    healthy = command("health", "--address", address)
    assert (healthy.returncode, healthy.stdout.partition(":")[0]) == (0, "healthy")
    agent.terminate()
    gone = command("health", "--address", address)
    assert (gone.returncode, gone.stdout.partition(":")[0]) == (1, "unresponsive")


def test_health_waits_for_another_worker_to_be_healthy_and_to_stay_so(stage: Stage, agent: Agent, address: str) -> None:
    old = asked("status", "--address", address)["worker_id"]
    wait = ["--address", address, "--samples", "2", "--interval", "100ms", "--other-than", old]
    in_vain = asked("health", *wait, "--wait", "500ms")
    assert in_vain["reason"].startswith("the old worker is still there")
    agent.terminate()
    stage.agent(status_listen=address)
    found = asked("health", *wait, "--wait", "60s", "--expect-version", __version__)
    assert (found["state"], found["samples"]) == ("healthy", 2)
    assert found["worker_id"] != old


def test_drain_waits_for_running_tasks_and_is_undone(stage: Stage, agent: Agent, address: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = stage.client.enqueue("inference.high", json.dumps({"wait_for": str(gate)}).encode())
    stage.until_state("inference.high", task, "active")
    busy = command("drain", "--address", address, "--wait", "300ms")
    assert (busy.returncode, busy.stdout) == (1, "draining, 1 tasks are running\n")
    gate.touch()
    assert asked("drain", "--address", address, "--wait", "30s")["done"]
    late = stage.client.enqueue("inference.high", b"{}")
    assert command("health", "--address", address).stdout.startswith("draining:")
    assert stage.state("inference.high", late) == "pending"
    assert asked("drain", "--address", address, "--undo")["status"] == "running"
    stage.until_state("inference.high", late, "completed")


def test_a_process_that_is_given_up_makes_the_worker_degraded_here_and_in_redis(stage: Stage, address: str) -> None:
    stage.queue("inference", author_code())
    agent = stage.agent(status_listen=address, recovery_max_restarts=0).wait_running()
    assert agent.record()["healthy"] == "true"
    stage.client.enqueue("inference.default", b'{"die": 3}')
    until(lambda: asked("health", "--address", address)["state"] == "degraded", "it is degraded")
    health = asked("health", "--address", address)
    assert health["restart"]
    assert "exited with code 3" in health["reason"] or "code 3" in health["reason"]
    until(lambda: agent.record()["healthy"] == "false", "whoever looks in Redis sees it too")


def test_local_commands_need_no_secret_and_no_other_setting(agent: Agent, address: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        "server: {url: 'https://x', api_key_file: '${CREDENTIALS_DIRECTORY}/api_key'}\n"
        f"worker: {{queue: inference, nonsense: 1}}\nstatus: {{listen: {address}}}\n"
    )
    assert command("health", "--config", str(config)).returncode == 0
    assert command("status", environment={"RUNQY_CONFIG": str(config)}).returncode == 0
    config.write_text("status: {listen: nowhere}\n")
    broken = command("health", "--config", str(config))
    assert broken.returncode == 2
    assert 'found "nowhere"' in broken.stderr


def test_the_fleet_is_every_worker_in_redis(stage: Stage, agent: Agent, address: str) -> None:
    second = stage.agent().wait_running()
    environment = {"RUNQY_SERVER_URL": stage.server.url, "RUNQY_API_KEY": stage.server.api_key}
    done = command("status", "--fleet", "--json", environment=environment | {"RUNQY_QUEUES": "inference"})
    workers = json.loads(done.stdout)["workers"]
    assert {int(worker["worker_id"].split(":")[1]) for worker in workers} == {agent.pid, second.pid}
    assert all(worker["healthy"] and worker["version"] == __version__ for worker in workers)
    assert workers[0]["queues"] == ["inference.high:9", "inference.low:3"]
    table = command("status", "--fleet", environment=environment | {"RUNQY_QUEUES": "inference"}).stdout
    assert len(table.splitlines()) == 3


def test_metrics_are_in_the_format_of_prometheus(stage: Stage) -> None:
    stage.queue("inference")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stage.agent(status_listen=f"127.0.0.1:{port}").wait_running()
    task = stage.client.enqueue("inference.default", b"{}")
    stage.until_state("inference.default", task, "completed")

    def counted() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text if 'runqy_agent_tasks_total{outcome="succeeded"} 1.0' in text else ""

    text = until(counted, "the task is counted")
    assert "runqy_agent_up 1.0" in text
    assert 'runqy_agent_process_ready{queue="inference"} 1.0' in text


def test_workers_that_nobody_told_where_to_listen_do_not_collide_and_commands_find_each(
    stage: Stage, runtime: Path, tmp_path: Path
) -> None:
    stage.queue("inference")
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    configs = [tmp_path / "one" / "config.yml", tmp_path / "two" / "config.yml"]
    pids = {}
    for config in configs:
        config.parent.mkdir()
        config.write_text("worker: {concurrency: 2}\n")
        agent = stage.agent(config_file=config, status_listen="auto", environment=environment).wait_running()
        pids[config] = agent.pid
    for config in configs:
        done = command("status", "--json", "--config", str(config), environment=environment)
        assert json.loads(done.stdout)["pid"] == pids[config]
    sockets = sorted((runtime / "runqy-agent").iterdir())
    assert len(sockets) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o660}
    unsaid = command("status", environment=environment)
    assert unsaid.returncode == 2
    assert all(str(path) in unsaid.stderr for path in sockets)
    os.kill(pids[configs[0]], signal.SIGKILL)  # its socket stays, and counts no more
    until(lambda: command("health", "-c", str(configs[0]), environment=environment).returncode == 1, "it is gone")
    done = command("status", "--json", environment=environment)
    assert json.loads(done.stdout)["pid"] == pids[configs[1]]
    assert sorted((runtime / "runqy-agent").iterdir()) == sockets
    again = stage.agent(config_file=configs[0], status_listen="auto", environment=environment).wait_running()
    done = command("status", "--json", "--config", str(configs[0]), environment=environment)
    assert json.loads(done.stdout)["pid"] == again.pid


def test_a_second_worker_with_the_same_settings_goes_on_without_an_endpoint(stage: Stage, runtime: Path) -> None:
    stage.queue("inference")
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    first, second = (stage.agent(status_listen="auto", environment=environment).wait_running() for _ in range(2))
    assert "there is no status endpoint" not in first.log()
    assert "there is no status endpoint" in second.log()
    done = command("status", "--json", environment=environment | {"RUNQY_QUEUES": "inference"})
    assert json.loads(done.stdout)["pid"] == first.pid


def test_a_worker_does_what_its_endpoint_is_asked_over_tcp_where_its_settings_lead_to_the_token(
    stage: Stage, runtime: Path, tmp_path: Path
) -> None:
    stage.queue("inference")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    stage.agent(status_listen=address, environment=environment).wait_running()
    elsewhere = {"XDG_RUNTIME_DIR": str(tmp_path)}
    refused = command("drain", "--address", address, environment=elsewhere)
    assert refused.returncode == 1
    assert "wants its token" in refused.stderr
    assert command("drain", "--address", address, environment=environment).stdout == "draining, 0 tasks are running\n"
    assert command("drain", "--undo", "--address", address, environment=environment).returncode == 0
    assert "unchanged" in command("redeploy", "--address", address, environment=environment).stdout
    assert command("logs", "--address", address, environment=environment).returncode == 0


@pytest.mark.parametrize("sent", [b"", b"GET /status HTTP/1.1\r\n"], ids=["idle", "half a request"])
def test_connections_that_ask_nothing_do_not_make_a_healthy_worker_look_sick(stage: Stage, sent: bytes) -> None:
    stage.queue("inference")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = stage.agent(status_listen=f"127.0.0.1:{port}").wait_running()
    idle = []
    for _ in range(200):
        idle.append(socket.create_connection(("127.0.0.1", port)))
        idle[-1].sendall(sent)
    for _ in range(3):
        assert asked("health", "--address", f"127.0.0.1:{port}")["state"] == "healthy"
    assert len(psutil.Process(agent.pid).net_connections("tcp")) < 120
    for connection in idle:
        connection.close()


def test_systemd_hears_when_the_worker_is_ready_and_when_it_stops(stage: Stage, manager: Manager) -> None:
    stage.queue("inference")
    agent = stage.agent(environment=manager.environment)
    until(lambda: "READY=1" in manager.heard, "it is ready")
    assert "STATUS=running: inference ready" in manager.heard
    until(lambda: manager.heard.count("WATCHDOG=1") > 2, "the watchdog is fed")
    assert agent.terminate() == 0
    assert "STOPPING=1" in manager.heard


FREEZE = """
import os, signal, time

def freeze(*_):
    open({frozen!r}, "w").close()
    while not os.path.exists({thaw!r}):
        time.sleep(0.01)

signal.signal(signal.SIGUSR2, freeze)
"""


def test_a_worker_whose_event_loop_is_blocked_does_not_feed_the_watchdog(
    stage: Stage, manager: Manager, tmp_path: Path
) -> None:
    frozen, thaw = tmp_path / "frozen", tmp_path / "thaw"
    (tmp_path / "sitecustomize.py").write_text(FREEZE.format(frozen=str(frozen), thaw=str(thaw)))
    stage.queue("inference")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    agent = stage.agent(environment=manager.environment | {"PYTHONPATH": path})
    until(lambda: manager.heard.count("WATCHDOG=1") > 2, "the watchdog is fed")
    agent.process.send_signal(signal.SIGUSR2)
    until(frozen.exists, "the event loop is blocked")
    feeds = manager.heard.count("WATCHDOG=1")
    time.sleep(1.0)  # so often that several feeds would be due
    assert manager.heard.count("WATCHDOG=1") == feeds
    thaw.touch()
    until(lambda: manager.heard.count("WATCHDOG=1") > feeds, "it is fed again")
    assert agent.terminate() == 0


STUCK = """
import asyncio, os
from runqy_agent.loops import loop
from {module} import {name}

loop.HUNG_SECONDS = 0.5
work = {name}.{method}

async def stuck(self, *arguments):
    while os.path.exists({gate!r}):
        await asyncio.sleep(0.01)  # the event loop turns, and this never ends
    return await work(self, *arguments)

{name}.{method} = stuck
"""


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ("heartbeat", "runqy_agent.loops.heartbeat Heartbeat round"),
        ("processor", "runqy_agent.loops.processor Processor _round"),
        ("leases", "runqy_agent.loops.leases Leases round"),
    ],
)
def test_a_worker_one_of_whose_loops_is_stuck_does_not_feed_the_watchdog(
    part: str, place: str, stage: Stage, manager: Manager, tmp_path: Path
) -> None:
    module, name, method = place.split()
    gate = tmp_path / "gate"
    (tmp_path / "sitecustomize.py").write_text(STUCK.format(module=module, name=name, method=method, gate=str(gate)))
    stage.queue("inference")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    agent = stage.agent(environment=manager.environment | {"PYTHONPATH": path}).wait_running()
    until(lambda: manager.heard.count("WATCHDOG=1") > 2, "the watchdog is fed")
    gate.touch()
    task = stage.client.enqueue("inference.default", b"{}")  # wakes the processor

    def noticed(times: int) -> None:
        words = f"{part}: hung; systemd will restart the worker"
        until(lambda: agent.log().count(words) > times, f"it is noticed more than {times} times")

    noticed(2)
    fed = manager.heard.count("WATCHDOG=1")
    noticed(6)
    assert manager.heard.count("WATCHDOG=1") == fed
    gate.unlink()
    until(lambda: manager.heard.count("WATCHDOG=1") > fed, "it is fed again")
    stage.until_state("inference.default", task, "completed")
    assert agent.terminate() == 0


def test_the_endpoint_answers_while_the_worker_starts_and_is_gone_when_it_has_ended(
    stage: Stage, manager: Manager, address: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    slow = f"while not os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n    "
    code = author_code()
    stage.queue("inference", code | {"main.py": code["main.py"].replace('print("loading"', f'{slow}print("loading"')})
    agent = stage.agent(status_listen=address, environment=manager.environment)
    until(lambda: Path(address).exists(), "the endpoint is there")
    until(lambda: asked("status", "--address", address).get("processes"), "its process starts")
    assert asked("health", "--address", address)["state"] == "starting"
    assert "STATUS=bootstrapping" in manager.heard
    assert "READY=1" not in manager.heard
    gate.touch()
    until(lambda: "READY=1" in manager.heard, "it is ready")
    assert agent.terminate() == 0
    assert not Path(address).exists()


def test_a_process_cannot_give_systemd_commands_by_what_it_prints(stage: Stage, manager: Manager) -> None:
    code = author_code()
    code["main.py"] = code["main.py"].replace("about to die", "about to die\\nMAINPID=1\\nWATCHDOG=trigger")
    stage.queue("inference", code)
    stage.agent(environment=manager.environment, recovery_max_restarts=0).wait_running()
    stage.client.enqueue("inference.default", b'{"die": 3}')
    until(lambda: any("degraded" in line for line in manager.heard), "systemd is told")
    assert "STATUS=running: inference degraded (the process exited with code 3)" in manager.heard
    assert {line.partition("=")[0] for line in manager.heard} == {"STATUS", "READY", "WATCHDOG"}
    assert "WATCHDOG=trigger" not in manager.heard
