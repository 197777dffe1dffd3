"""All workers, as Redis knows them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runqy_agent.assembly import register_and_route
from runqy_agent.broker import keys
from runqy_agent.broker.connection import Clients, describe, resolve
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.config import Config


@dataclass(frozen=True)
class FleetWorker:
    """One worker's record.

    Attributes:
        worker_id: ``host:pid:uuid``.
        version: "" for workers that do not tell.
        queues: names, with their priority as in ``inference.high:9``.
        last_beat, started_at: unix seconds.
        commits: parent queue to the commit that serves; empty for workers that do not tell.
        stale: parent queues that serve other code than they should, to ``commit``, ``wanted`` and ``reason``.
    """

    worker_id: str
    version: str
    status: str
    healthy: bool
    queues: list[str]
    concurrency: int
    started_at: float
    last_beat: float
    commits: dict[str, Any]
    stale: dict[str, Any]


async def read_fleet(config: Config) -> list[FleetWorker]:
    """Every worker that has a record, sorted by id.

    Raises:
        RegistrationError: the server, which knows where Redis is, cannot be asked.
        BrokerError: Redis cannot be.
    """
    registrations, _ = await register_and_route(config)
    address = resolve(registrations[0].redis, config.redis)
    clients = Clients()
    try:
        client = clients.open(address)
        return [_worker(name, record) for name, record in sorted((await _records(client)).items())]
    except Exception as error:
        raise BrokerError(f"the workers cannot be read from Redis at {address}: {describe(error)}") from error
    finally:
        await clients.close()


async def _records(client: Any) -> dict[str, Mapping[bytes, bytes]]:
    kind = (await client.type(keys.WORKERS)).decode()
    names = await (client.smembers(keys.WORKERS) if kind == "set" else client.zrange(keys.WORKERS, 0, -1))
    found = {}
    for name in names:
        text = name.decode("utf-8", "replace")
        if text.startswith("asynq:"):
            continue  # asynq keeps the names of its own keys in the same place
        record = await client.hgetall(keys.worker(text))
        if record:
            found[text] = record
    return found


def _worker(worker_id: str, record: Mapping[bytes, bytes]) -> FleetWorker:
    fields = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in record.items()}
    return FleetWorker(
        worker_id=worker_id,
        version=fields.get("version", ""),
        status=fields.get("status", "?"),
        healthy=fields.get("healthy") == "true",
        queues=re.findall(r"[^\s\[\]]+:\d+", fields.get("queues", "").removeprefix("map[")),
        concurrency=_number(fields, "concurrency"),
        started_at=_number(fields, "started_at"),
        last_beat=_number(fields, "last_beat"),
        commits=_object(fields, "commits"),
        stale=_object(fields, "stale"),
    )


def _object(fields: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(fields.get(name, ""))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(fields: Mapping[str, str], name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.isdigit() else 0
