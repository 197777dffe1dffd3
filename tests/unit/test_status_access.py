"""Who may ask the status endpoint for what: over TCP, over a unix socket, and whom the commands believe."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import socket
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from commands_kit import worker_status
from runqy_agent.commands.endpoint import Endpoint
from runqy_agent.errors import RunqyAgentError
from runqy_agent.peers import squatter_could_own
from runqy_agent.reporting.status_server import StatusServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0
NOBODY = 65534
ACTIONS = ("drain", "resume", "redeploy")
ONLY_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def status() -> Any:
    return worker_status()


class Asked:
    """What the worker was asked to do, and whether it does it."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.willing = True

    def action(self, name: str) -> Callable[[], bool]:
        def act() -> bool:
            self.actions.append(name)
            return self.willing

        return act


@contextmanager
def serving(listen: str, asked: Asked, *directories: Path) -> Iterator[None]:
    """A status server in a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    trouble: list[BaseException] = []

    async def serve() -> None:
        actions = {name: asked.action(name) for name in ACTIONS}
        server = StatusServer(listen, status, actions=actions, token_directories=directories)
        await server.start()
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            trouble.append(error)
            raise
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(PATIENCE)
    assert trouble == []
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


@pytest.fixture
def asked() -> Asked:
    return Asked()


def send(address: tuple[str, int] | str, head: str) -> tuple[int, dict[str, str], Any]:
    """Code, headers and JSON of an answer."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(address)
        connection.sendall(f"{head}\r\n\r\n".encode("latin-1"))
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    top, _, body = text.partition("\r\n\r\n")
    first, *lines = top.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body) if body and "json" in headers["content-type"] else body


def get(port: int, page: str, *lines: str) -> int:
    head = "\r\n".join([f"GET {page} HTTP/1.1", *(lines or (f"Host: 127.0.0.1:{port}",))])
    return send(("127.0.0.1", port), head)[0]


# Over TCP


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9641", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:9641", 200),
        ("127.9.9.9", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:9641", 421),
        ("evil.example:9641@127.0.0.1", 421),
        ("10.0.0.5", 421),
        ("", 421),
        ("localhost:port", 421),
        ("localhost:9641:9641", 421),
        ("[::1", 421),
        ("[]", 421),
    ],
)
def test_a_page_whose_name_was_made_to_lead_here_is_not_answered(
    host: str, code: int, port: int, asked: Asked, tmp_path: Path
) -> None:
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        for page in ("/status", "/health", "/metrics"):
            assert get(port, page, f"Host: {host}") == code


def test_a_request_that_names_no_host_is_not_answered(port: int, asked: Asked, tmp_path: Path) -> None:
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        assert get(port, "/status", "X: y") == 421


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("10.0.0.5:9641", 200),
        ("[fe80::1]", 200),
        ("localhost", 200),
        (socket.gethostname(), 200),
        (f"{socket.gethostname().partition('.')[0]}.example.com:9641", 200),
        ("evil.example", 421),
        (f"x{socket.gethostname()}", 421),
    ],
)
def test_an_endpoint_that_others_reach_answers_to_its_addresses_and_the_name_of_the_host(
    host: str, code: int, port: int, asked: Asked, tmp_path: Path
) -> None:
    with serving(f"0.0.0.0:{port}", asked, tmp_path):
        assert get(port, "/status", f"Host: {host}") == code


def test_no_page_of_somebody_else_in_a_browser_is_let_in(port: int, asked: Asked, tmp_path: Path) -> None:
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        where = ("127.0.0.1", port)
        foreign = "Host: localhost\r\nOrigin: http://evil"
        preflight = f"OPTIONS /drain HTTP/1.1\r\n{foreign}\r\nAccess-Control-Request-Method: POST"
        for head in (preflight, f"GET /status HTTP/1.1\r\n{foreign}"):
            _, headers, _ = send(where, head)
            assert not any(name.startswith("access-control") for name in headers)
        assert send(where, preflight)[0] == 405


@pytest.mark.parametrize(
    "request_line", ["GET /logs", "HEAD /logs", "GET /logs?lines=1", *(f"POST /{name}" for name in ACTIONS)]
)
def test_over_tcp_what_people_printed_and_what_changes_the_worker_needs_the_token(
    request_line: str, port: int, asked: Asked, tmp_path: Path
) -> None:
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        token = (tmp_path / f"status-{port}.token").read_text()
        assert len(token) > 32
        for wrong in (
            "",
            f"Bearer {token}x",
            f"Bearer {token[:-1]}",
            "Bearer ",
            "Bearer \xff",
            f"Basic {token}",
            token,
        ):
            head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {wrong}"
            code, headers, _ = send(("127.0.0.1", port), head)
            assert (code, headers["www-authenticate"]) == (401, "bearer")
        assert asked.actions == []
        head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}"
        assert send(("127.0.0.1", port), head)[0] == (202 if request_line.startswith("POST") else 200)


def test_the_token_is_for_owner_and_group_new_for_each_worker_and_gone_with_it(
    port: int, asked: Asked, tmp_path: Path
) -> None:
    path = tmp_path / "made" / f"status-{port}.token"
    tokens = set()
    for _ in range(2):
        with serving(f"127.0.0.1:{port}", asked, Path("/proc/nowhere"), path.parent):
            assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
            tokens.add(path.read_text())
        assert list(path.parent.iterdir()) == []
    assert len(tokens) == 2


def test_a_link_in_the_place_of_the_token_is_replaced_and_not_followed(port: int, asked: Asked, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    place = tmp_path / "runtime"
    place.mkdir()
    (place / f"status-{port}.token").symlink_to(target)
    with serving(f"127.0.0.1:{port}", asked, place):
        pass
    assert target.read_text() == "precious"


def test_where_no_token_can_be_kept_the_worker_says_so_and_tells_its_status_only(
    port: int, asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(f"127.0.0.1:{port}", asked, Path("/proc/nowhere")):
        assert get(port, "/status") == 200
        assert get(port, "/logs") == 401
    assert "the token cannot be written (/proc/nowhere)" in caplog.text


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_commands_find_the_token(name: str, port: int, asked: Asked, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    stale.mkdir()
    (stale / f"status-{port}.token").write_text("of a worker that was killed")
    endpoint = Endpoint(f"{name}:{port}", [tmp_path / "none", stale, tmp_path])
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        assert endpoint.act("drain")["worker_id"] == "host:7:old"
        assert endpoint.output(10) == {"worker_id": "host:7:old", "lines": []}
    assert asked.actions == ["drain"]


def test_commands_without_the_token_say_what_to_do(port: int, asked: Asked, tmp_path: Path) -> None:
    endpoint = Endpoint(f"127.0.0.1:{port}")
    with serving(f"127.0.0.1:{port}", asked, tmp_path):
        assert endpoint.must_answer()["worker_id"] == "host:7:old"
        with pytest.raises(RunqyAgentError, match="wants its token"):
            endpoint.act("drain")
        with pytest.raises(RunqyAgentError, match="wants its token"):
            endpoint.output(1)


# Over a unix socket


def test_over_its_socket_the_workers_own_user_asks_without_a_token(asked: Asked, tmp_path: Path) -> None:
    path = str(tmp_path / "status.sock")
    endpoint = Endpoint(path)
    with serving(path, asked):
        for name in ACTIONS:
            assert endpoint.act(name)["worker_id"] == "host:7:old"
        assert endpoint.process({"pid": 1}) == os.getpid()
        assert send(path, "GET /logs HTTP/1.1")[0] == 200
    assert asked.actions == list(ACTIONS)


def test_what_the_worker_does_not_do_now_is_a_conflict_and_an_error(asked: Asked, tmp_path: Path) -> None:
    path = str(tmp_path / "status.sock")
    asked.willing = False
    with serving(path, asked):
        assert send(path, "POST /drain HTTP/1.1")[0] == 409
        with pytest.raises(RunqyAgentError, match="the worker does not drain now: it is running"):
            Endpoint(path).act("drain")


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("GET /drain HTTP/1.1", 405),
        ("HEAD /redeploy HTTP/1.1", 405),
        ("POST /status HTTP/1.1", 405),
        ("PUT /drain HTTP/1.1", 405),
        ("POST /drain/ HTTP/1.1", 405),
        ("GET /drain/ HTTP/1.1", 404),
        ("POST drain HTTP/1.1", 202),
    ],
)
def test_only_post_acts_and_only_where_it_should(head: str, code: int, asked: Asked, tmp_path: Path) -> None:
    path = str(tmp_path / "status.sock")
    with serving(path, asked):
        assert send(path, head)[0] == code
    assert asked.actions == (["drain"] if code == 202 else [])


def _as_nobody(work: Callable[..., None], *arguments: Any) -> int:
    """Call it in a process of somebody else's. Returns its exit code."""

    def run() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(PATIENCE)
    return process.exitcode if process.exitcode is not None else -1


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory in which everybody may make files, like /tmp."""
    path = Path(tempfile.mkdtemp(prefix="runqy-open-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def _asks(path: str, codes: dict[str, int]) -> None:
    for head, code in codes.items():
        found = send(path, f"{head} HTTP/1.1")[0]
        assert found == code, (head, found)


@ONLY_AS_ROOT
def test_whoever_may_connect_reads_and_only_the_workers_user_and_root_act(asked: Asked, open_directory: Path) -> None:
    path = open_directory / "status.sock"
    with serving(str(path), asked):
        path.chmod(0o666)
        codes = {"GET /status": 200, "GET /logs": 200} | {f"POST /{name}": 403 for name in ACTIONS}
        assert _as_nobody(_asks, str(path), codes) == 0
    assert asked.actions == []


def _acts_as_nobody(path: str) -> None:
    with pytest.raises(RunqyAgentError, match="run this as root or as its user"):
        Endpoint(path).act("drain")


@ONLY_AS_ROOT
def test_a_command_of_somebody_else_says_who_may(asked: Asked, open_directory: Path) -> None:
    path = open_directory / "status.sock"
    with serving(str(path), asked):
        path.chmod(0o666)
        assert _as_nobody(_acts_as_nobody, str(path)) == 0


@contextmanager
def worker_of_nobody(path: Path) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    ready, stop = context.Event(), context.Event()

    def run() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        asked = Asked()
        with serving(str(path), asked):
            ready.set()
            stop.wait(PATIENCE)

    process = context.Process(target=run)
    process.start()
    assert ready.wait(PATIENCE)
    try:
        yield
    finally:
        stop.set()
        process.join(PATIENCE)
        assert process.exitcode == 0


@ONLY_AS_ROOT
def test_root_does_not_believe_whoever_could_have_come_first_in_an_open_directory(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    for path in (open_directory / "status.sock", own / "status.sock"):
        with worker_of_nobody(path):
            for ask in (Endpoint(str(path)).status, lambda path=path: Endpoint(str(path)).act("drain")):
                with pytest.raises(
                    RunqyAgentError, match=f"is not trusted: .* of user {NOBODY} .* in {open_directory}"
                ):
                    ask()


@pytest.fixture
def closed_directory() -> Iterator[Path]:
    """A directory in which only one other user may make files."""
    path = Path("/run" if Path("/run").is_dir() else "/") / f"runqy-test-{os.getpid()}"
    path.mkdir(mode=0o755)
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@ONLY_AS_ROOT
def test_root_asks_the_worker_of_a_user_in_a_directory_of_that_user(closed_directory: Path) -> None:
    path = closed_directory / "status.sock"
    with worker_of_nobody(path):
        assert Endpoint(str(path)).act("redeploy")["worker_id"] == "host:7:old"


@ONLY_AS_ROOT
def test_a_directory_of_somebody_else_than_who_listens_is_not_trusted(closed_directory: Path) -> None:
    path = closed_directory / "status.sock"
    assert squatter_could_own(path, NOBODY) == ""
    assert squatter_could_own(path, NOBODY - 1) == str(closed_directory)


def test_a_path_is_trusted_if_nobody_else_can_make_files_on_the_way_to_it(tmp_path: Path) -> None:
    assert squatter_could_own(Path("/status.sock"), os.geteuid()) == ""
    open_one = tmp_path / "open"
    open_one.mkdir()
    open_one.chmod(0o777)
    (tmp_path / "link").symlink_to(open_one)
    assert squatter_could_own(tmp_path / "link" / "status.sock", os.geteuid()) == str(open_one.resolve())
    inner = open_one / "inner"
    inner.mkdir(mode=0o700)
    assert squatter_could_own(inner / "status.sock", os.geteuid()) == str(open_one.resolve())
