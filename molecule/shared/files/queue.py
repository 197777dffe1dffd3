#!/usr/bin/python3
"""Sends tasks and follows them, with redis-cli alone, on the host where Redis runs. Tasks are written as asynq does.

Usage: queue.py send QUEUE NUMBER RATE [PAYLOAD [RETRY]]    RATE a second, 0 is at once; prints how ids begin
       queue.py wait QUEUE NAME NUMBER SECONDS      until all have ended; prints how, as JSON
       queue.py result QUEUE ID                     the result of one
       queue.py watch SECONDS                       prints the fewest workers that served at one moment
       queue.py workers                             the records of all workers, as JSON
"""

from __future__ import annotations

import json
import socket
import sys
import time
import uuid
from pathlib import Path


class Redis:
    """As much of Redis' protocol as this needs."""

    def __init__(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", 6379))
        self._file = self._socket.makefile("rb")
        self("AUTH", Path("/etc/redis-password").read_text(encoding="utf-8").strip())

    def __call__(self, *words: str | bytes | float) -> object:
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(b"*%d\r\n%s" % (len(parts), body))
        return self._reply()

    def _reply(self) -> object:
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return rest


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = b""
    while True:
        out += bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
        value >>= 7
        if not value:
            return out


def message(queue: str, task_id: str, payload: bytes, retry: int) -> bytes:
    """A TaskMessage: type, payload, id, queue, retries, timeout, and a day of retention."""
    fields = [(1, b"echo"), (2, payload), (3, task_id.encode()), (4, queue.encode()), (5, retry), (8, 120), (12, 86400)]
    return b"".join(field(number, value) for number, value in fields)


def send(queue: str, number: int, rate: float, payload: str, retry: int) -> None:
    """Enqueue, and print the name that the ids begin with."""
    redis, name = Redis(), uuid.uuid4().hex[:8]
    redis("SADD", "asynq:queues", queue)
    began = time.monotonic()
    for index in range(1, number + 1):
        if rate:
            time.sleep(max(0.0, began + index / rate - time.monotonic()))
        task_id = f"{name}-{index}"
        key = f"asynq:{{{queue}}}:t:{task_id}"
        body = message(queue, task_id, payload.encode(), retry)
        redis("HSET", key, "msg", body, "state", "pending", "pending_since", time.time_ns())
        redis("LPUSH", f"asynq:{{{queue}}}:pending", task_id)
    print(name)


def wait(queue: str, name: str, number: int, seconds: float) -> None:
    """Follow the tasks to their end."""
    redis, deadline = Redis(), time.monotonic() + seconds
    open_ids = {f"{name}-{index}" for index in range(1, number + 1)}
    hosts: dict[str, int] = {}
    ended = dict.fromkeys(("completed", "archived", "retried", "lost"), 0)
    while open_ids and time.monotonic() < deadline:
        for task_id in sorted(open_ids):
            key = f"asynq:{{{queue}}}:t:{task_id}"
            state, body, result = redis("HMGET", key, "state", "msg", "result")
            if state is None:
                ended["lost"] += 1
            elif state in {b"completed", b"archived"}:
                ended[state.decode()] += 1
                ended["retried"] += retried(body) > 0
                if result:
                    host = json.loads(result).get("host", "?")
                    hosts[host] = hosts.get(host, 0) + 1
            else:
                continue
            open_ids.discard(task_id)
        time.sleep(0.2)
    print(json.dumps({**ended, "open": len(open_ids), "hosts": hosts}))


def retried(body: bytes) -> int:
    """The field ``retried`` of a TaskMessage."""
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = body[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(body):
        tag = number()
        value = number()
        if tag & 7 == 2:
            position += value
        elif tag >> 3 == 6:
            return value
    return 0


def result(queue: str, task_id: str) -> None:
    """Print the result of one task."""
    found = Redis()("HGET", f"asynq:{{{queue}}}:t:{task_id}", "result")
    print(found.decode() if isinstance(found, bytes) else "")


def workers(redis: Redis) -> dict[str, dict[str, str]]:
    """The records of all workers."""
    found = {}
    for name in redis("ZRANGE", "asynq:workers", 0, -1):
        if not name.startswith(b"asynq:"):
            record = [each.decode() for each in redis("HGETALL", b"asynq:workers:" + name)]
            if record:
                found[name.decode()] = dict(zip(record[::2], record[1::2], strict=True))
    return found


def watch(seconds: float) -> None:
    """Look ten times a second."""
    redis, deadline, fewest = Redis(), time.monotonic() + seconds, 10**6
    while time.monotonic() < deadline and not Path("/tmp/stop-watching").exists():  # noqa: S108 - a host of one test
        records = workers(redis).values()
        fewest = min(fewest, sum(each["status"] == "running" and each["healthy"] == "true" for each in records))
        time.sleep(0.1)
    print(fewest)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "watch":
        watch(float(rest[0]))
    elif command == "workers":
        print(json.dumps(workers(Redis())))
    elif command == "send":
        payload = rest[3] if len(rest) > 3 else "{}"
        send(rest[0], int(rest[1]), float(rest[2]), payload, int(rest[4]) if len(rest) > 4 else 25)
    elif command == "wait":
        wait(rest[0], rest[1], int(rest[2]), float(rest[3]))
    else:
        result(rest[0], rest[1])
