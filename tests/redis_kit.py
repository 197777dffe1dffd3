"""Redis in other shapes than one plain server: with sentinels, as a cluster, encrypted."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.crc import key_slot

from runqy_agent.demo.redis_server import RedisServer, free_port
from stage import until

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS = 16384
MASTER = "tasks"
"""The name by which the sentinels know the master."""
DOWN_AFTER_MS = 1000


class Sentinels:
    """A master, a replica, and three sentinels of which two must agree."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.servers = list(pair(arguments))
        self.sentinels = [start_sentinel(self.servers[0].port) for _ in range(3)]
        self.nodes = [sentinel.address for sentinel in self.sentinels]
        until(self._all_know_each_other, "the sentinels know the replica and each other")

    def _all_know_each_other(self) -> bool:
        states = [self.ask(sentinel) for sentinel in self.sentinels]
        return all(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 for state in states)

    @staticmethod
    def ask(sentinel: RedisServer) -> dict[str, Any]:
        """What a sentinel knows of the master."""
        with sentinel.client() as client:
            state: dict[str, Any] = client.sentinel_masters()[MASTER]
        return state

    def master(self) -> RedisServer:
        """The server that all sentinels name as master."""
        ports = {self.ask(sentinel)["port"] for sentinel in self.sentinels}
        return next((server for server in self.servers if {server.port} == ports), self.servers[0])

    def until_promoted(self, old: RedisServer) -> RedisServer:
        """Wait until the other server is the master, for all that are asked. Returns it."""
        (new,) = (server for server in self.servers if server is not old)
        until(lambda: self.master() is new and _replication(new)["role"] == "master", "the replica is the master now")
        return new

    @staticmethod
    def follows(replica: RedisServer, master: RedisServer) -> bool:
        """Whether one server replicates the other."""
        state = _replication(replica)
        return state.get("master_port") == master.port and state.get("master_link_status") == "up"

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()


def acl_line(password: str, extra: str = "") -> list[str]:
    """The command of the documentation that makes the worker's user, with a password."""
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("ACL SETUSER "))
    return [*line.replace("PASSWORD", password).split(), *extra.split()]


def pair(arguments: Sequence[str] = ()) -> tuple[RedisServer, RedisServer]:
    """A master and its replica."""
    options = ["--repl-diskless-sync-delay", "0", *arguments]  # Redis waits 5 s for more replicas otherwise
    master = RedisServer(arguments=options)
    replica = RedisServer(arguments=["--replicaof", "127.0.0.1", str(master.port), *options])
    until(lambda: Sentinels.follows(replica, master), "the replica follows the master")
    return master, replica


def _replication(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        state: dict[str, Any] = client.info("replication")
    return state


class MovingAddress:
    """An address in front of servers, such as a virtual IP: when it moves, open connections stay where they are."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.text = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, port: int) -> None:
        """Lead new connections to another server."""
        self._target = port

    def _accept(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._stopped.set()
        self._listener.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def start_sentinel(master_port: int, quorum: int = 2, more: str = "") -> RedisServer:
    """A sentinel that watches a master; ``more`` is further configuration."""
    directory = Path(tempfile.mkdtemp(prefix="runqy-sentinel-"))
    config = directory / "sentinel.conf"
    config.write_text(
        f"sentinel monitor {MASTER} 127.0.0.1 {master_port} {quorum}\n"
        f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {MASTER} 5000\n{more}\n",
        encoding="utf-8",
    )
    return RedisServer(config_file=config, arguments=["--sentinel"])


def _has_replica(node: RedisServer, master_id: Any) -> bool:
    replicas: Any = node.client().execute_command("CLUSTER", "REPLICAS", master_id)
    return len(replicas) == 1


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        """Args: arguments: further settings of every node."""
        self._options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--appendonly",
            "yes",
            *arguments,
        ]
        self._options += ["--repl-diskless-sync-delay", "0"]
        self.nodes = [RedisServer(arguments=self._options, port=_cluster_port()) for _ in range(3)]
        for index, node in enumerate(self.nodes):
            client = node.client()
            first, last = SLOTS * index // 3, SLOTS * (index + 1) // 3
            client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            if index:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        self.until_ok()

    def add_replica(self, master: RedisServer) -> RedisServer:
        """Start one more node, which takes over when this master dies."""
        replica = RedisServer(arguments=self._options, port=_cluster_port())
        node_id: Any = master.client().execute_command("CLUSTER", "MYID")
        client = replica.client()
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", master.port)

        def replicates() -> bool:
            with suppress(redis.ResponseError):  # as long as it does not know that node
                client.execute_command("CLUSTER", "REPLICATE", node_id)
                return True
            return False

        until(replicates, "the new node knows its master")
        until(lambda: Sentinels.follows(replica, master), "the replica follows the master")
        for node in self.nodes:  # those that do not know it have no vote for it
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
            until(partial(_has_replica, node, node_id), "every node knows the replica")
        return replica

    def until_ok(self) -> None:
        """Wait until all nodes say that the cluster works."""
        until(self._is_ok, "all nodes of the cluster know each other")

    def _is_ok(self) -> bool:
        with suppress(redis.RedisError):
            states: list[Any] = [node.client().execute_command("CLUSTER", "INFO") for node in self.nodes]
            return all(_field(state, "cluster_state") == "ok" for state in states) and all(
                _field(state, "cluster_known_nodes") == "3" for state in states
            )
        return False

    @property
    def address(self) -> str:
        """The nodes, with commas between them."""
        return ",".join(node.address for node in self.nodes)

    def client(self) -> Any:
        """A client of the whole cluster."""
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    def node_of(self, key: str) -> RedisServer:
        """The node that holds a key."""
        slot = key_slot(key.encode())
        return next(node for index, node in enumerate(self.nodes) if slot < SLOTS * (index + 1) // 3)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class Certificates:
    """A private authority, and what it has signed; made with the openssl command."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self.ca = directory / f"{name}.pem"
        self._ca_key = directory / f"{name}.key"
        subject = ["-subj", f"/CN=runqy test {name}", "-days", "2"]
        _openssl("req", "-x509", "-nodes", *_KEY, "-keyout", self._ca_key, "-out", self.ca, *subject)

    def issue(self, name: str, alternative_names: str) -> tuple[Path, Path]:
        """A certificate and its key, for names such as ``DNS:localhost,IP:127.0.0.1``."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative_names}\n", encoding="utf-8")
        _openssl("req", "-nodes", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signer = ["-CA", self.ca, "-CAkey", self._ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signer)
        return certificate, key

    def server_arguments(self, port: int, names: str = "DNS:localhost,IP:127.0.0.1") -> list[str]:
        """Settings of a server that listens on this port with TLS, and asks its clients for certificates."""
        certificate, key = self.issue(f"server-{port}", names)
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(self.ca)]
        return ["--tls-port", str(port), *files]


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _field(info: Any, name: str) -> str:
    if isinstance(info, dict):
        return str(info.get(name))
    pairs = (line.partition(":") for line in info.decode().split("\r\n"))
    return next((value for key, _, value in pairs if key == name), "")


def _cluster_port() -> int:
    """A free port whose bus port, 10000 above it, is free too."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 10_000))
            return port
