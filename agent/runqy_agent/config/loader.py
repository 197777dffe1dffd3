"""From file, environment and command line to one checked ``Config``."""

from __future__ import annotations

import os
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from runqy_agent.config.checks import check
from runqy_agent.config.keys import SECTIONS, SUBSECTIONS
from runqy_agent.config.secret_files import read_secret
from runqy_agent.config.settings import Config
from runqy_agent.config.sources import (
    Findings,
    Given,
    Rank,
    read_document,
    read_environment,
    read_overrides,
    strongest,
)
from runqy_agent.config.yaml_file import read_yaml
from runqy_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Two ways to say one thing. Of two sources the stronger one decides; one source must not give both.
_ALTERNATIVES = (
    ("server.api_key", "server.api_key_file"),
    ("git.token", "git.token_file"),
    ("redis.password", "redis.password_file"),
    ("redis.sentinel.password", "redis.sentinel.password_file"),
    ("worker.queue", "worker.queues"),
)
_SECRET_FILES = {
    "server.api_key_file": "api_key",
    "git.token_file": "token",
    "redis.password_file": "password",
    "redis.sentinel.password_file": "password",
}


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    server_required: bool = True,
) -> Config:
    """Read, merge and check the settings.

    The command line wins over the environment, the environment over the file, the file over the defaults.

    Args:
        path: a YAML file, or None for the environment alone.
        environ: the environment; by default this process's.
        overrides: settings from the command line, ``section.key`` → text.
        server_required: whether the server's URL and key and a queue must be given. A library user who serves
            queues with handlers alone passes False.

    Returns:
        The settings, with secrets read from their files and ``warnings`` for the log.

    Raises:
        ConfigError: with one line for everything that is malformed, missing or contradictory.
    """
    environ = os.environ if environ is None else environ
    findings = Findings()
    used: set[str] = set()
    readable = True
    if path is not None:
        try:
            used = read_document(read_yaml(path), environ, findings)
        except ConfigError as error:
            findings.problems += error.problems
            readable = False
    read_environment(environ, used, findings)
    read_overrides(overrides or {}, findings)
    given = strongest(findings.given)
    _choose(given, findings)
    config = _build(given, findings)
    if readable:  # otherwise most complaints would be about what the file may well say
        check(config, given, findings, server_required=server_required)
    if findings.problems:
        raise ConfigError(findings.problems)
    config.warnings = findings.warnings
    config.path = str(path or "")
    return config


def _choose(given: dict[str, Given], findings: Findings) -> None:
    """Of each pair of alternatives, keep the one from the stronger source."""
    for pair in _ALTERNATIVES:
        for rank in Rank:
            both = [one for one in findings.given if one.rank == rank and one.key.path in pair and one.value]
            if len(both) > 1:
                findings.reject(both[1].key, both[1].origin, f"{both[0].key.path} is given too; keep one of them")
        rivals = [given[path] for path in pair if path in given and given[path].value]
        if len(rivals) > 1:
            del given[min(rivals, key=lambda rival: rival.rank).key.path]


def _build(given: dict[str, Given], findings: Findings) -> Config:
    sections: dict[str, dict[str, Any]] = {section: {} for section in (*SECTIONS, *SUBSECTIONS)}
    for one in given.values():
        sections[one.key.section][one.key.name] = one.value
    for path, target in _SECRET_FILES.items():
        if path in given and given[path].value:
            try:
                sections[given[path].key.section][target] = read_secret(given[path].value)
            except ValueError as error:
                findings.reject(given[path].key, given[path].origin, str(error))
    config = Config()
    for section, values in sections.items():
        target = attrgetter(section)(config)
        for name, value in values.items():
            setattr(target, name, value)
    return config
