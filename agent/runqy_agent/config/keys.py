"""The catalogue of keys, drawn from the settings' types, with the environment variable of each.

``KEYS`` maps a path such as ``worker.concurrency`` to what is known about that key.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec.inspect

from runqy_agent.config import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_GOOD_ENOUGH = 0.6  # difflib's own default for a close match
_SAME_SECTION = 0.1  # prefer a neighbour over a better-spelt key elsewhere, if only just

_OWN_VARIABLES = {
    "server.url": "RUNQY_SERVER_URL",
    "server.api_key": "RUNQY_API_KEY",
    "server.api_key_file": "RUNQY_API_KEY_FILE",
    "worker.queues": "RUNQY_QUEUES",
    "worker.concurrency": "RUNQY_CONCURRENCY",
    "worker.processes": "RUNQY_PROCESSES",
    "worker.shutdown_timeout": "RUNQY_SHUTDOWN_TIMEOUT",
    "worker.ttl_completed": "RUNQY_TTL_COMPLETED",
    "worker.ttl_archived": "RUNQY_TTL_ARCHIVED",
    "worker.pending_timeout": "RUNQY_PENDING_TIMEOUT",
    "worker.active_timeout": "RUNQY_ACTIVE_TIMEOUT",
    "deployment.dir": "RUNQY_DEPLOYMENT_DIR",
    "deployment.use_system_site_packages": "RUNQY_USE_SYSTEM_SITE_PACKAGES",
    "deployment.python": "RUNQY_PYTHON",
    "retry.max_retry": "RUNQY_MAX_RETRY",
}
_WHOLE_SECTIONS = ("bootstrap", "git", "recovery", "redis", "status", "log")
_WITHOUT_VARIABLE = {"recovery.in_flight"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        section: the name of its section, such as ``worker``, or ``redis.sentinel`` for one within another.
        name: its name there, such as ``concurrency``.
        type: what it may hold.
        env: the environment variable that sets it, or "" where there is none.
    """

    section: str
    name: str
    type: msgspec.inspect.Type
    env: str

    @property
    def path(self) -> str:
        """The key as people write it: ``worker.concurrency``."""
        return f"{self.section}.{self.name}"

    @property
    def secret(self) -> bool:
        """Whether its value must never be shown."""
        return settings.Secret in _classes_of(self.type)


def _classes_of(kind: msgspec.inspect.Type) -> set[type]:
    members = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return {member.cls for member in members if isinstance(member, msgspec.inspect.CustomType)}


def _variable(section: str, name: str) -> str:
    path = f"{section}.{name}"
    if path in _OWN_VARIABLES:
        return _OWN_VARIABLES[path]
    if section.partition(".")[0] in _WHOLE_SECTIONS and path not in _WITHOUT_VARIABLE:
        return f"RUNQY_{path}".replace(".", "_").upper()
    return ""


def _catalogue() -> dict[str, Key]:
    config = msgspec.inspect.type_info(settings.Config)
    assert isinstance(config, msgspec.inspect.StructType)  # noqa: S101 - tells mypy what type_info gives for a struct
    sections = ((item.name, item.type) for item in config.fields)
    return {
        key.path: key
        for name, kind in sections
        if isinstance(kind, msgspec.inspect.StructType)
        for key in _keys_of(name, kind)
    }


def _keys_of(section: str, kind: msgspec.inspect.StructType) -> Iterator[Key]:
    for item in kind.fields:
        if isinstance(item.type, msgspec.inspect.StructType):
            yield from _keys_of(f"{section}.{item.name}", item.type)
        else:
            yield Key(section, item.name, item.type, _variable(section, item.name))


KEYS = _catalogue()
SECTIONS = tuple(dict.fromkeys(key.section.partition(".")[0] for key in KEYS.values()))
SUBSECTIONS = tuple(dict.fromkeys(key.section for key in KEYS.values() if "." in key.section))
"""Sections within another one, by their path: ``redis.sentinel``."""
VARIABLES = {key.env: key for key in KEYS.values() if key.env}


def nearest_key(section: str, name: str) -> str:
    """The known key that a mistyped one probably means.

    Args:
        section: the section it was found in; "" at the top level.
        name: its name as found.

    Returns:
        A path such as ``bootstrap.retries``, or "" if nothing is near.
    """
    wanted = _plain(name)
    scores = {}
    for path in (*KEYS, *SUBSECTIONS):
        known_section, _, known_name = path.rpartition(".")
        scores[path] = _likeness(wanted, known_name) + (_SAME_SECTION if known_section == section else 0)
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] >= _GOOD_ENOUGH else ""


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The known name nearest to a mistyped one, or ""."""
    plain = {_plain(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=_GOOD_ENOUGH)
    return plain[found[0]] if found else ""


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")
