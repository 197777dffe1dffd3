"""A host's clock that is wrong, and is set while programs run: libfaketime tells it to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis

_PLACES = "usr/lib*/*/faketime/libfaketimeMT.so.1", "usr/lib*/faketime/libfaketimeMT.so.1"


def libfaketime() -> Path | None:
    """Debian's library for programs with threads; None where its package ``faketime`` is not installed."""
    return next((path for place in _PLACES for path in Path("/").glob(place)), None)


class HostClock:
    """The wall clock of the programs that run with ``environment``; their other clocks are left alone."""

    def __init__(self, file: Path, ahead: float = 0.0) -> None:
        """Args: file: one of its own, to be made; ahead: seconds, how far it is ahead of ours (less than 0: behind)."""
        self._file = file
        self.set(ahead)

    def set(self, ahead: float) -> None:
        """Set it, also for programs that are running."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+g}\n", encoding="ascii")
        new.rename(self._file)  # whoever reads it finds one or the other

    @property
    def environment(self) -> dict[str, str]:
        """What a program must be started with. An agent hands none of it down to its processes."""
        return {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


_TOLD = """
from dataclasses import replace
from runqy_agent.broker import scripts

TEXT = '''
local time = redis.call('TIME')
return { tostring(time[1] + (redis.call('GET', 'test:clock') or 0)), time[2] }
'''
read = scripts._read
scripts._read = lambda name, layout: TEXT if name == "time.lua" else read(name, layout)
"""


class RedisClock:
    """The clock of a Redis, as the agents with ``environment`` read it.

    libfaketime does not do for a redis-server: with jemalloc both wait for each other at its start. By its clock Redis
    does nothing that matters here: it keeps what the agents write, and tells them the time when they ask for it.
    """

    def __init__(self, directory: Path, client: redis.Redis) -> None:
        """Args: directory: one of its own."""
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_TOLD, encoding="utf-8")
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))}
        self._client = client

    def set(self, ahead: float) -> None:
        """Set it, seconds ahead of ours (less than 0: behind)."""
        self._client.set("test:clock", ahead)
