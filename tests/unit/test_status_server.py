"""The status endpoint: what it answers, and whom it does not let hurt the worker."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.clock import Clock
from runqy_agent.commands.logs import as_text
from runqy_agent.errors import ConfigError
from runqy_agent.process.command import Printed
from runqy_agent.reporting import status_http
from runqy_agent.reporting.output import Output
from runqy_agent.reporting.socket_files import listen_at
from runqy_agent.reporting.status import in_words
from runqy_agent.reporting.status_server import StatusServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runqy_agent.reporting.status import ProcessStatus, Status

NOW = 1_800_000_000.0
PATIENCE = 30.0


def process(state: str = "ready", reason: str = "") -> ProcessStatus:
    return {
        "state": state,
        "reason": reason,
        "since": NOW - 60,
        "retry_at": 0.0,
        "commit": "c" * 40,
        "stale": False,
        "wanted": "",
        "stale_reason": "",
        "consecutive_fails": 0,
        "total_restarts": 2,
        "dropped_responses": 0,
        "processes": [],
    }


def status(**changes: Any) -> Status:
    made: Any = {
        "worker_id": "host:1:uuid",
        "version": "0.1.0",
        "pid": 1,
        "host": "host",
        "started_at": NOW - 100,
        "status": "running",
        "healthy": True,
        "queues": {"inference.high": 9},
        "concurrency": 4,
        "running": 2,
        "tasks": {"succeeded": 5, "failed": 1, "put_back": 0, "lost": 0},
        "processes": {"inference": process()},
        "redeploy": {"number": 0, "running": False, "at": 0.0, "results": {}, "restart": []},
        "redis": {"address": "redis:6379", "last_beat": NOW - 1, "error": ""},
        "clock_offset": 0.0,
        "config": "",
        "now": NOW,
    }
    made.update(changes)
    found: Status = made
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "status.sock"


async def ask(path: Path, request: str | bytes) -> tuple[str, str]:
    """Head and body of the answer, both "" if there is none."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request if isinstance(request, bytes) else f"{request}\r\nHost: x\r\n\r\n".encode())
    try:
        head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).decode().partition("\r\n\r\n")
    except (ConnectionResetError, BrokenPipeError):
        head = body = ""
    writer.close()
    return head, body


def serving(
    path: Path,
    client: Callable[[], Awaitable[None]],
    tell: Callable[[], Status] = status,
    listen: str = "",
    output: Output | None = None,
) -> None:
    async def run() -> None:
        server = StatusServer(listen or str(path), tell, output)
        await server.start()
        try:
            await client()
        finally:
            await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        ("GET /status HTTP/1.1", "200 OK"),
        ("GET /status?pretty=1 HTTP/1.0", "200 OK"),
        ("GET /health HTTP/1.1", "200 OK"),
        ("GET /metrics HTTP/1.1", "200 OK"),
        ("GET / HTTP/1.1", "404 Not Found"),
        ("GET /status/ HTTP/1.1", "404 Not Found"),
        ("POST /status HTTP/1.1", "405 Method Not Allowed"),
        ("DELETE /nowhere HTTP/1.1", "405 Method Not Allowed"),
        ("GET /status", "400 Bad Request"),
        ("PRI * HTTP/2.0", "400 Bad Request"),
        ("nonsense", "400 Bad Request"),
    ],
)
def test_every_request_gets_the_answer_that_it_deserves(path: Path, request_line: str, code: str) -> None:
    async def client() -> None:
        head, body = await ask(path, request_line)
        assert head.startswith(f"HTTP/1.1 {code}\r\n")
        assert f"Content-Length: {len(body)}" in head
        assert ("Allow: GET, HEAD" in head) == code.startswith("405")

    serving(path, client)


def test_the_status_is_told_as_it_is(path: Path) -> None:
    async def client() -> None:
        head, body = await ask(path, "GET /status HTTP/1.1")
        assert "Content-Type: application/json" in head
        assert json.loads(body) == status()

    serving(path, client)


@pytest.mark.parametrize("page", ["/status", "/health", "/metrics", "/nowhere"])
def test_head_gets_the_head_of_the_answer_to_get(path: Path, page: str) -> None:
    async def client() -> None:
        got, body = await ask(path, f"GET {page} HTTP/1.1")
        assert body
        assert await ask(path, f"HEAD {page} HTTP/1.1") == (got, "")

    serving(path, client)


def test_health_is_503_with_the_reason_where_a_process_is_given_up(path: Path) -> None:
    async def client() -> None:
        head, body = await ask(path, "GET /health HTTP/1.1")
        assert head.startswith("HTTP/1.1 503 ")
        verdict = json.loads(body)
        assert (verdict["state"], verdict["restart"]) == ("degraded", True)
        assert "exit code 3" in verdict["reason"]

    serving(path, client, lambda: status(processes={"inference": process("degraded", "exit code 3")}))


def test_the_metrics_say_the_same_and_leave_no_trace_in_the_library(path: Path) -> None:
    async def client() -> None:
        for _ in range(2):
            _, body = await ask(path, "GET /metrics HTTP/1.1")
            assert 'runqy_agent_tasks_total{outcome="failed"} 1.0' in body
            assert "runqy_agent_tasks_running 2.0" in body
            assert 'runqy_agent_process_restarts_total{queue="inference"} 2.0' in body
            assert "runqy_agent_last_beat_seconds 1.799999999e+09" in body
            assert "python_info" not in body

    serving(path, client)


def test_before_the_first_heartbeat_there_is_no_time_of_one(path: Path) -> None:
    async def client() -> None:
        _, body = await ask(path, "GET /metrics HTTP/1.1")
        assert "last_beat" not in body
        head, _ = await ask(path, "GET /health HTTP/1.1")
        assert head.startswith("HTTP/1.1 503 ")

    starting = status(status="bootstrapping", processes={}, redis={"address": "", "last_beat": None, "error": ""})
    serving(path, client, lambda: starting)


def test_a_mistake_in_telling_is_an_answer_and_a_line_in_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Status:
        raise ZeroDivisionError

    async def client() -> None:
        head, _ = await ask(path, "GET /status HTTP/1.1")
        assert head.startswith("HTTP/1.1 500 ")

    serving(path, client, fail)
    assert "ZeroDivisionError" in caplog.text


def test_a_request_that_does_not_end_is_cut_off_by_its_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "REQUEST_SECONDS", 1000.0)

    async def client() -> None:
        assert await ask(path, b"GET /status HTTP/1.1\r\n" + b"X: y\r\n" * 100_000) == ("", "")
        head, _ = await ask(path, "GET /status HTTP/1.1")
        assert head.startswith("HTTP/1.1 200 ")

    serving(path, client)


def test_clients_that_have_gone_take_no_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "MAX_CONNECTIONS", 4)

    async def client() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(20):
            assert (await ask(path, "GET /status HTTP/1.1"))[0].startswith("HTTP/1.1 200 ")
        writer.write(b"GET /status HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
        writer.close()

    serving(path, client)


def test_a_request_that_does_not_end_is_cut_off_by_the_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "REQUEST_SECONDS", 0.05)

    async def client() -> None:
        assert await ask(path, b"GET /status HTTP/1.1\r\n") == ("", "")

    serving(path, client)


@pytest.mark.parametrize("sent", [b"", b"GET /status HTTP/1.1\r\nHost: x\r\n"], ids=["idle", "half a request"])
def test_the_oldest_idle_clients_make_room_and_whoever_asks_is_answered(path: Path, sent: bytes) -> None:
    async def client() -> None:
        idle = []
        for number in range(3 * status_http.MAX_CONNECTIONS):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(sent)
            idle.append((reader, writer))
            if number % 16 == 0:
                assert (await ask(path, "GET /status HTTP/1.1"))[0].startswith("HTTP/1.1 200 ")
        late, early = idle[-1], idle[0]
        assert await asyncio.wait_for(read_all(early[0]), PATIENCE) == b""
        late[1].write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" if not sent else b"\r\n")
        assert (await asyncio.wait_for(late[0].read(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
        for _, writer in idle:
            writer.close()

    serving(path, client)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def test_not_more_clients_are_kept_than_it_serves_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "MAX_CONNECTIONS", 4)

    async def client() -> None:
        idle = [await asyncio.open_unix_connection(path) for _ in range(20)]
        open_ones = {asyncio.create_task(read_all(reader)) for reader, _ in idle}
        deadline = time.monotonic() + PATIENCE
        while sum(not task.done() for task in open_ones) > 4:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert (await ask(path, "GET /status HTTP/1.1"))[0].startswith("HTTP/1.1 200 ")
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*open_ones)

    serving(path, client)


def test_a_client_that_does_not_read_its_answer_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "REQUEST_SECONDS", 0.05)
    output = Output(Clock())
    for _ in range(500):
        output.add(Printed("stdout", "x" * 4096, "q", 1))

    async def client() -> None:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(0)
            await asyncio.get_running_loop().sock_connect(slow, str(path))
            await asyncio.get_running_loop().sock_sendall(slow, b"GET /logs?lines=500 HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.5)
            received = 0
            while part := await asyncio.get_running_loop().sock_recv(slow, 2**20):
                received += len(part)
            assert 0 < received < 500 * 4096

    serving(path, client, output=output)


def test_what_a_client_sends_after_its_request_changes_nothing(path: Path) -> None:
    async def client() -> None:
        twice = b"GET /status HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n"
        head, body = await ask(path, twice)
        assert head.startswith("HTTP/1.1 200 ")
        assert json.loads(body) == status()

    serving(path, client)


@pytest.mark.parametrize(
    "line", ["no header", " folded: x", "Host: a\r\nHost: b", "Authorization: a\r\nauthorization: b"]
)
def test_a_head_that_can_be_read_in_two_ways_is_a_bad_request(path: Path, line: str) -> None:
    async def client() -> None:
        head, _ = await ask(path, f"GET /status HTTP/1.1\r\n{line}\r\n\r\n".encode())
        assert head.startswith("HTTP/1.1 400 ")

    serving(path, client)


def test_the_socket_is_for_owner_and_group_and_gone_at_the_end(path: Path) -> None:
    async def client() -> None:
        assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o660

    serving(path, client, listen=f"unix:{path}")
    assert not path.exists()


def test_the_socket_of_somebody_who_came_later_stays(path: Path) -> None:
    async def client() -> None:
        await asyncio.to_thread(path.unlink)
        await asyncio.to_thread(path.touch)

    serving(path, client)
    assert path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def client() -> None:
        assert (await ask(path, "GET /status HTTP/1.1"))[0].startswith("HTTP/1.1 200 ")

    serving(path, client)


def test_two_workers_do_not_replace_one_dead_socket_at_once(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before, made = path.stat().st_ino, []
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)  # another worker is at it
    thread = threading.Thread(target=lambda: made.append(listen_at(path)))
    thread.start()
    thread.join(0.3)
    assert made == []
    assert path.stat().st_ino == before
    os.close(directory)
    thread.join(PATIENCE)
    made[0].close()


def test_an_address_that_need_not_be_had_is_given_up_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("precious")

    async def run() -> None:
        server = StatusServer(str(path), status, optional=True)
        await server.start()
        await server.stop()

    asyncio.run(run())
    assert "there is no status endpoint, set another address for one" in caplog.text
    assert path.read_text() == "precious"


def test_whoever_is_connected_when_it_stops_is_let_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "REQUEST_SECONDS", 1000.0)

    async def run() -> None:
        server = StatusServer(str(path), status)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        assert (await ask(path, "GET /status HTTP/1.1"))[0].startswith("HTTP/1.1 200 ")
        await server.stop()
        assert await asyncio.wait_for(read_all(reader), PATIENCE) == b""
        writer.close()

    asyncio.run(run())


def refused(listen: str) -> str:
    with pytest.raises(ConfigError, match=r"status\.listen: cannot listen on .*; set another address") as refusal:
        asyncio.run(StatusServer(listen, status).start())
    return str(refusal.value)


def test_a_socket_that_somebody_serves_is_not_taken_even_if_he_does_not_answer(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        clients = []
        while True:  # until connecting would have to wait, as with a worker that hangs
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].settimeout(0)
            try:
                clients[-1].connect(str(path))
            except BlockingIOError:
                break
        assert "in use" in refused(str(path))
        for client in clients:
            client.close()
    assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "in use" in refused(str(path))
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_or_not_to_be_made_is_refused(tmp_path: Path) -> None:
    assert "too long" in refused(f"{tmp_path}/{'x' * 200}")
    (tmp_path / "file").touch()
    assert refused(f"{tmp_path}/file/status.sock")


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert address in refused(address)


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])  # noqa: S104
def test_only_an_address_that_others_reach_warns(host: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def client() -> None:
        pass

    caplog.set_level(logging.WARNING)
    serving(Path(), client, listen=f"{host}:{port}")
    assert ("everybody who reaches" in caplog.text) == warns


def test_without_an_address_there_is_no_endpoint() -> None:
    async def run() -> None:
        server = StatusServer("", status)
        await server.start()
        await server.stop()

    asyncio.run(run())


def test_in_words_it_is_one_line_with_the_first_line_of_each_reason() -> None:
    assert in_words(status()) == "running: inference ready"
    images = process("recovering", "the process exited with code 1\nTraceback\nMAINPID=1")
    both = status(processes={"inference": process(), "images": images})
    assert in_words(both) == "running: inference ready, images recovering (the process exited with code 1)"
    assert in_words(status(status="bootstrapping", processes={})) == "bootstrapping"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["a 1", "b 2", "a 3"]),
        ("?lines=1", ["a 3"]),
        ("?after=1", ["b 2", "a 3"]),
        ("?queue=a&lines=5", ["a 1", "a 3"]),
        ("?after=99", []),
    ],
)
def test_the_lines_that_are_asked_for_are_told(path: Path, query: str, shown: list[str]) -> None:
    output = Output(Clock())
    for number, queue in enumerate("aba", 1):
        output.add(Printed("stdout", f"{queue} {number}", queue, 7))

    async def client() -> None:
        head, body = await ask(path, f"GET /logs{query} HTTP/1.1")
        assert "200 OK" in head
        assert [line["text"] for line in json.loads(body)["lines"]] == shown

    serving(path, client, output=output)


@pytest.mark.parametrize("query", ["lines=x", "after=-1", "lines=1e3", f"after={10**20}"])
def test_lines_that_cannot_be_counted_are_a_bad_request(path: Path, query: str) -> None:
    async def client() -> None:
        assert "400 Bad Request" in (await ask(path, f"GET /logs?{query} HTTP/1.1"))[0]

    serving(path, client, output=Output(Clock()))


def test_what_would_steer_the_terminal_is_shown_and_not_obeyed() -> None:
    line = {"ts": 0, "queue": "q", "src": "stderr", "text": "a\tb\x1b[2Jc\r\x9b"}
    assert as_text(line).endswith(" q stderr| a\tb\\x1b[2Jc\\r\\x9b")
