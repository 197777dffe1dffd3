"""What systemd hears, and when it hears nothing."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from runqy_agent.loops import loop as loops
from runqy_agent.loops.loop import PeriodicLoop
from runqy_agent.reporting.systemd import MAX_WORDS, Systemd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TICK = 0.02
"""Seconds between two feeds in these tests."""


class Manager:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.socket.settimeout(0)
        self.environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(2 * TICK * 1e6))}

    def heard(self) -> list[str]:
        """Each message since the last call."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def test_it_is_ready_once_when_it_runs_for_the_first_time(manager: Manager) -> None:
    systemd = Systemd(manager.environ)
    systemd.tell("bootstrapping", "bootstrapping")
    assert manager.heard() == ["STATUS=bootstrapping"]
    systemd.tell("running", "running: inference ready")
    assert manager.heard() == ["STATUS=running: inference ready\nREADY=1"]
    systemd.tell("draining", "draining: inference ready")
    systemd.tell("running", "running: inference ready")
    assert manager.heard() == ["STATUS=draining: inference ready", "STATUS=running: inference ready"]


def test_a_reload_is_told_with_its_time_and_so_is_its_end(manager: Manager) -> None:
    systemd = Systemd(manager.environ)
    systemd.reloading(now=True)
    assert manager.heard() == []  # systemd does not take it from a service that is not ready
    systemd.tell("running", "running")
    manager.heard()
    before = time.monotonic_ns() // 1000
    for _ in range(2):
        systemd.reloading(now=True)
    (message,) = manager.heard()
    reloading, usec = message.splitlines()
    assert reloading == "RELOADING=1"
    assert before <= int(usec.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    for _ in range(2):
        systemd.reloading(now=False)
    assert manager.heard() == ["READY=1"]
    systemd.stopping()
    systemd.reloading(now=True)
    assert manager.heard() == ["STOPPING=1"]


def test_nothing_is_said_twice(manager: Manager) -> None:
    systemd = Systemd(manager.environ)
    for _ in range(3):
        systemd.tell("running", "running")
        systemd.stopping()
    assert manager.heard() == ["STATUS=running\nREADY=1", "STOPPING=1"]


def test_what_a_process_prints_is_no_command_to_systemd(manager: Manager) -> None:
    Systemd(manager.environ).tell("recovering", "images recovering (boo\nMAINPID=1\r\nSTOPPING=1\x0bWATCHDOG=trigger)")
    (message,) = manager.heard()
    assert message == "STATUS=images recovering (boo MAINPID=1 STOPPING=1 WATCHDOG=trigger)"


def test_long_words_are_cut_and_those_without_a_meaning_in_utf8_do_not_hurt(manager: Manager) -> None:
    Systemd(manager.environ).tell("recovering", "\udcff" + "x" * 10_000)
    (message,) = manager.heard()
    assert message == "STATUS=" + ("\\udcff" + "x" * MAX_WORDS)[:MAX_WORDS]


def test_words_that_would_steer_a_terminal_or_command_systemd_do_neither(manager: Manager) -> None:
    Systemd(manager.environ).tell("recovering", "a\nMAINPID=1\x0bb\u2028c \x1b[2J\u202e")
    assert manager.heard() == ["STATUS=a MAINPID=1 b c \\x1b[2J\\u202e"]


def test_an_abstract_socket_is_one_too() -> None:
    manager = Manager(f"@runqy-test-{secrets.token_hex(8)}")
    Systemd(manager.environ).tell("running", "running")
    assert manager.heard() == ["STATUS=running\nREADY=1"]
    manager.socket.close()


def test_without_systemd_nothing_happens_and_no_watchdog_waits() -> None:
    systemd = Systemd({"WATCHDOG_USEC": "1"})
    systemd.tell("running", "running")
    systemd.stopping()
    asyncio.run(asyncio.wait_for(systemd.feed_watchdog(list), 30))


def test_what_was_not_heard_is_said_again(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    systemd = Systemd({"NOTIFY_SOCKET": address})
    systemd.tell("running", "running")
    manager = Manager(address)
    systemd.tell("running", "running")
    assert manager.heard() == ["STATUS=running\nREADY=1"]
    manager.socket.close()


@pytest.mark.parametrize(
    ("pid", "usec", "seconds"),
    [("", "4000000", 4), ("own", "4000000", 4), ("1", "4000000", 0), ("", "", 0), ("", "-4", 0)],
)
def test_the_watchdog_is_meant_for_this_process_or_for_nobody(
    manager: Manager, pid: str, usec: str, seconds: float
) -> None:
    environ = (
        manager.environ
        | {"WATCHDOG_USEC": usec}
        | ({"WATCHDOG_PID": pid.replace("own", str(os.getpid()))} if pid else {})
    )
    assert Systemd(environ).watchdog_seconds == seconds


async def fed(manager: Manager, times: int = 3) -> None:
    """Wait until the watchdog has been fed so many times more."""
    manager.heard()
    deadline = time.monotonic() + 30
    feeds = 0
    while feeds < times:
        assert time.monotonic() < deadline, "the watchdog is not fed"
        await asyncio.sleep(TICK / 4)
        feeds += manager.heard().count("WATCHDOG=1")


def test_a_loop_that_turns_feeds_the_watchdog_and_one_that_is_blocked_does_not(manager: Manager) -> None:
    async def run() -> None:
        feeding = asyncio.create_task(Systemd(manager.environ).feed_watchdog(list))
        await fed(manager)
        manager.heard()
        time.sleep(20 * TICK)  # noqa: ASYNC251 - this is what it must not survive
        assert manager.heard() == []
        await fed(manager)
        feeding.cancel()

    asyncio.run(run())


def test_what_a_busy_manager_has_not_taken_is_told_again(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runqy_agent.reporting.systemd.SEND_SECONDS", 0.001)
    systemd = Systemd(manager.environ)
    fill = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    fill.setblocking(False)  # noqa: FBT003 - the name of the method says what it is

    def leave_no_room() -> None:
        with suppress(BlockingIOError):
            while True:
                fill.sendto(b"somebody else's", manager.environ["NOTIFY_SOCKET"])

    async def heard(line: str) -> None:
        while not any(line in message.splitlines() for message in manager.heard()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(TICK / 4)

    async def run() -> None:
        leave_no_room()
        systemd.tell("running", "running")
        feeding = asyncio.create_task(systemd.feed_watchdog(list))
        await heard("READY=1")
        for now, line in ((True, "RELOADING=1"), (False, "READY=1")):
            leave_no_room()
            systemd.reloading(now=now)
            await heard(line)
        feeding.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))
    fill.close()


class Rounds(PeriodicLoop):
    """Does what it is told to in each round."""

    name = "rounds"

    def __init__(self) -> None:
        super().__init__(interval=0.001)
        self.away = False
        self.stuck = asyncio.Event()
        self.stuck.set()

    async def round(self) -> None:
        if self.away:
            raise ConnectionError("Redis is away")
        await self.stuck.wait()


def test_a_loop_that_hangs_starves_the_watchdog_and_redis_being_away_does_not(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loops, "HUNG_SECONDS", 4 * TICK)

    async def run() -> None:
        rounds = Rounds()
        rounds.start()
        hung = lambda: [rounds.name] if rounds.hung else []  # noqa: E731
        feeding = asyncio.create_task(Systemd(manager.environ).feed_watchdog(hung))
        rounds.away = True
        await fed(manager, 10)
        rounds.away = False
        await fed(manager)
        rounds.stuck.clear()
        while not rounds.hung:  # noqa: ASYNC110 - it is time that makes it so
            await asyncio.sleep(TICK / 4)
        manager.heard()
        await asyncio.sleep(10 * TICK)
        assert manager.heard() == []
        rounds.stuck.set()
        await fed(manager)
        feeding.cancel()
        await rounds.stop()

    asyncio.run(run())
    assert "rounds: hung; systemd will restart the worker" in caplog.text
