"""Reads the recordings of the real asynq, and puts a Redis into a recorded state and compares it with another."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

DIRECTORY = Path(os.environ.get("RUNQY_VECTORS") or Path(__file__).parent / "conformance" / "vectors")


def load(name: str) -> Any:
    """One file of the recordings."""
    return json.loads((DIRECTORY / name).read_text(encoding="utf-8"))


def restore(client: redis.Redis, state: dict[str, Any]) -> None:
    """Put every recorded key in place."""
    for key, recorded in state.items():
        if recorded["type"] == "list":
            client.rpush(key, *recorded["value"])
        elif recorded["type"] == "set":
            client.sadd(key, *recorded["value"])
        elif recorded["type"] == "zset":
            client.zadd(key, dict(recorded["value"]))
        elif recorded["type"] == "hash":
            client.hset(key, mapping={field: base64.b64decode(data) for field, data in recorded["value_b64"].items()})
        else:
            client.set(key, base64.b64decode(recorded["value_b64"]))
        if "expires_at" in recorded:
            client.expireat(key, recorded["expires_at"])
        elif "ttl" in recorded:
            client.expire(key, recorded["ttl"])


def dump(client: redis.Redis) -> dict[str, Any]:
    """Every key, in the form of the recordings, with expiries as a tuple of absolute and relative seconds."""
    state: dict[str, Any] = {}
    redis: Any = client  # redis-py's types serve both of its clients, so they say little
    for raw in sorted(redis.keys("*")):
        key = raw.decode()
        kind = redis.type(key).decode()
        entry: dict[str, Any] = {"type": kind}
        if kind == "list":
            entry["value"] = [item.decode() for item in redis.lrange(key, 0, -1)]
        elif kind == "set":
            entry["value"] = sorted(item.decode() for item in redis.smembers(key))
        elif kind == "zset":
            entry["value"] = [[member.decode(), score] for member, score in redis.zrange(key, 0, -1, withscores=True)]
        elif kind == "hash":
            fields = redis.hgetall(key).items()
            entry["value_b64"] = {field.decode(): base64.b64encode(data).decode() for field, data in fields}
        else:
            entry["value_b64"] = base64.b64encode(redis.get(key)).decode()
        ttl = redis.ttl(key)
        if ttl != -1:
            entry["ttl"] = ttl
        state[key] = entry
    return state


def differences(found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What differs between two states; expiries may be two seconds apart."""
    lines = [f"{key}: not written" for key in recorded if key not in found]
    lines += [f"{key}: written, unlike asynq" for key in found if key not in recorded]
    for key in sorted(set(found) & set(recorded)):
        ours, theirs = dict(found[key]), dict(recorded[key])
        ttl = ours.pop("ttl", None)
        expected = theirs.pop("ttl", None)
        if "expires_at" in theirs:
            expected = theirs.pop("expires_at") - time.time()
        if (ttl is None) != (expected is None) or (ttl is not None and abs(ttl - expected) > 2):
            lines.append(f"{key}: expires in {ttl} s, recorded is {expected} s")
        if theirs["type"] == "zset":
            ours["value"], theirs["value"] = sorted(ours["value"]), sorted(theirs["value"])
        if ours != theirs:
            lines.append(f"{key}: {ours} is not {theirs}")
    return lines
