"""Makes Redis refuse single writes in the middle of a script, and records which ones there are."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from runqy_agent.broker import scripts

if TYPE_CHECKING:
    import pytest
    import redis

    from runqy_agent.broker.keys import Layout

WRITES = {
    *(
        "DEL",
        "EXPIRE",
        "EXPIREAT",
        "HDEL",
        "HSET",
        "INCRBY",
        "LPUSH",
        "LREM",
        "LTRIM",
        "PEXPIRE",
        "RPUSH",
        "SADD",
        "SET",
    ),
    *("SETEX", "SREM", "ZADD", "ZREM"),
}
"""The commands of the scripts that write."""
CALL = re.compile(r"redis\.(?:p?call)\(\s*'(\w+)'")
JOURNAL = "test:writes"
REFUSED = "test:refused"

WRAPPER = """
local real = redis
local function check(command, key)
  if not string.find('%(writes)s', ' ' .. command .. ' ', 1, true) then return true end
  real.call('RPUSH', '%(journal)s', '%(script)s ' .. command .. ' ' .. key)
  return real.call('GET', '%(refused)s') ~= command .. ' ' .. key
end
local redis = { log = real.log, LOG_NOTICE = real.LOG_NOTICE, status_reply = real.status_reply }
redis.call = function(command, key, ...)
  if not check(command, key) then error('NOPERM refused by the test', 0) end
  return real.call(command, key, ...)
end
redis.pcall = function(command, key, ...)
  if not check(command, key) then return { err = 'NOPERM refused by the test' } end
  return real.pcall(command, key, ...)
end
"""


def writes_of(name: str, layout: Layout) -> set[str]:
    """The commands of a script that write, read from its text."""
    return set(CALL.findall(scripts.load(name, layout).text)) & WRITES


def all_commands(*those: scripts.Script) -> set[str]:
    """Every command that occurs in some scripts."""
    return {command for script in those for command in CALL.findall(script.text)}


class RefusingRedis:
    """Scripts that ask before each write whether it is to be refused."""

    def __init__(self, client: redis.Redis, patch: pytest.MonkeyPatch) -> None:
        self.redis: Any = client
        load = scripts.load

        def wrapped(name: str, layout: Layout = "asynq") -> scripts.Script:
            fields = {"writes": f" {' '.join(WRITES)} ", "journal": JOURNAL, "refused": REFUSED, "script": name}
            text = WRAPPER % fields + load(name, layout).text
            return scripts.Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

        patch.setattr(scripts, "load", wrapped)

    def refuse(self, command: str, key: str) -> None:
        """Refuse this command on this key."""
        self.redis.set(REFUSED, f"{command} {key}")

    def lift(self) -> None:
        """Refuse nothing more."""
        self.redis.delete(REFUSED)

    def journal(self) -> list[tuple[str, str, str]]:
        """Script, command and key of every write so far, each once, in order; it is empty then."""
        found = [tuple(line.decode().split(" ", 2)) for line in self.redis.lrange(JOURNAL, 0, -1)]
        self.redis.delete(JOURNAL)
        return list(dict.fromkeys(found))
