"""Reads the recordings of the real asynq, and puts a Redis into a recorded state and compares it with another."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

OWN_DIRECTORY = Path(__file__).parent / "conformance" / "vectors"
DIRECTORY = Path(os.environ.get("RUNQY_VECTORS") or OWN_DIRECTORY)


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
    """Every key, in the form of the recordings, with expiries in seconds from now."""
    redis: Any = client  # redis-py's types serve both of its clients, so they say little
    names = sorted(redis.keys("*"))
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name)
            pipeline.ttl(name)
        about = pipeline.execute()
        kinds = [kind.decode() for kind in about[::2]]
        for name, kind in zip(names, kinds, strict=True):
            _READS[kind](pipeline, name)
        values = pipeline.execute()
    state: dict[str, Any] = {}
    for name, kind, ttl, value in zip(names, kinds, about[1::2], values, strict=True):
        entry = state[name.decode()] = {"type": kind, **_recorded(kind, value)}
        if ttl != -1:
            entry["ttl"] = ttl
    return state


_READS: dict[str, Callable[[Any, bytes], Any]] = {
    "list": lambda pipeline, name: pipeline.lrange(name, 0, -1),
    "set": lambda pipeline, name: pipeline.smembers(name),
    "zset": lambda pipeline, name: pipeline.zrange(name, 0, -1, withscores=True),
    "hash": lambda pipeline, name: pipeline.hgetall(name),
    "string": lambda pipeline, name: pipeline.get(name),
}


def _recorded(kind: str, value: Any) -> dict[str, Any]:
    if kind == "list":
        return {"value": [item.decode() for item in value]}
    if kind == "set":
        return {"value": sorted(item.decode() for item in value)}
    if kind == "zset":
        return {"value": [[member.decode(), score] for member, score in value]}
    if kind == "hash":
        return {"value_b64": {field.decode(): base64.b64encode(data).decode() for field, data in value.items()}}
    return {"value_b64": base64.b64encode(value).decode()}


def differences(found: dict[str, Any], recorded: dict[str, Any], tolerance: float = 2) -> list[str]:
    """What differs between two states; expiries may be some seconds apart."""
    lines = [f"{key}: not written" for key in recorded if key not in found]
    lines += [f"{key}: written, unlike asynq" for key in found if key not in recorded]
    for key in sorted(set(found) & set(recorded)):
        ours, theirs = dict(found[key]), dict(recorded[key])
        ttl = ours.pop("ttl", None)
        expected = theirs.pop("ttl", None)
        if "expires_at" in theirs:
            expected = theirs.pop("expires_at") - time.time()
        if (ttl is None) != (expected is None) or (ttl is not None and abs(ttl - expected) > tolerance):
            lines.append(f"{key}: expires in {ttl} s, recorded is {expected} s")
        if theirs["type"] == "zset":
            ours["value"], theirs["value"] = sorted(ours["value"]), sorted(theirs["value"])
        if ours != theirs:
            lines.append(f"{key}: {ours} is not {theirs}")
    return lines
