"""The three places a setting comes from: the file, the environment, the command line.

Each is turned into ``Given`` values of the right type. What does not fit is collected, so that one run names it all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from runqy_agent.config.conversion import MalformedValueError, convert, kind_of
from runqy_agent.config.keys import KEYS, SECTIONS, SUBSECTIONS, VARIABLES, Key, nearest, nearest_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from runqy_agent.config.yaml_file import Document

COMMAND_LINE = "command line"
_PREFIX = "RUNQY_"
_NOT_OURS = {"RUNQY_VECTORS", "RUNQY_CONFIG"}
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


class Rank(IntEnum):
    """Which source wins: the higher one."""

    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@dataclass(frozen=True)
class Given:
    """One setting as one source gave it.

    Attributes:
        key: the key it sets.
        value: its value, of the key's type.
        origin: where it stands, for messages: ``config.yml:12``, ``RUNQY_QUEUES`` or ``command line``.
        rank: how strong its source is.
    """

    key: Key
    value: Any
    origin: str
    rank: Rank


@dataclass
class Findings:
    """What was read, and what is wrong with it.

    Attributes:
        given: the well-formed settings.
        problems: one line for each malformed one.
        warnings: one line for each thing that is odd but harmless.
        malformed: the paths of the malformed ones, which need no second complaint that they are missing.
    """

    given: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    malformed: set[str] = field(default_factory=set)

    def add(self, key: Key, value: object, origin: str, rank: Rank, *, lenient: bool) -> None:
        """Convert one value and keep it, or keep what is wrong with it."""
        try:
            self.given.append(Given(key, convert(key, value, lenient=lenient), origin, rank))
        except MalformedValueError as error:
            self.reject(key, origin, str(error))

    def reject(self, key: Key, origin: str, problem: str) -> None:
        """Note that a key was given, but wrongly."""
        self.problems.append(f"{origin}: {key.path}: {problem}")
        self.malformed.add(key.path)


class _BadReferenceError(ValueError):
    """A ``${...}`` cannot be expanded."""


def read_document(document: Document, environ: Mapping[str, str], findings: Findings) -> set[str]:
    """Take the settings out of a file, expanding ``${VAR}`` and ``${VAR:-default}``.

    Returns:
        The names of the environment variables it refers to.
    """
    used: set[str] = set()
    for key, value in _known(document, findings):
        origin = document.at(key.section, key.name)
        try:
            expanded, lenient = _expand(value, environ, used)
        except _BadReferenceError as error:
            findings.reject(key, origin, str(error))
        else:
            findings.add(key, expanded, origin, Rank.FILE, lenient=lenient)
    return used


def read_environment(environ: Mapping[str, str], used: set[str], findings: Findings) -> None:
    """Take the settings out of ``RUNQY_*`` variables.

    Args:
        environ: the environment.
        used: variables the file refers to; they are known by that.
        findings: takes the settings, the problems and the warnings.
    """
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in _NOT_OURS:
            continue
        key = VARIABLES.get(name)
        if key is None:
            if name not in used:
                near = nearest(name, tuple(VARIABLES))
                findings.warnings.append(
                    f"{name}: not a variable of the agent, ignored" + (f"; did you mean {near}?" if near else "")
                )
        elif not environ[name] and not isinstance(key.type, inspect.StrType):
            findings.warnings.append(f"{name}: empty, ignored; unset it, or give {key.path} a value")
        else:
            findings.add(key, environ[name], name, Rank.ENVIRONMENT, lenient=True)


def read_overrides(overrides: Mapping[str, str], findings: Findings) -> None:
    """Take the settings from the command line, as ``section.key`` → text. Secrets are refused there."""
    for path, text in overrides.items():
        key = KEYS.get(path)
        if key is None:
            section, _, name = path.rpartition(".")
            findings.problems.append(f"{COMMAND_LINE}: {path}: {_unknown(section, name)}")
        elif key.secret:
            problem = f"a secret on the command line shows in the process list; use {path}_file or the environment"
            findings.reject(key, COMMAND_LINE, problem)
        else:
            findings.add(key, text, COMMAND_LINE, Rank.COMMAND_LINE, lenient=True)


def _known(document: Document, findings: Findings) -> Iterator[tuple[Key, object]]:
    for section, body in document.data.items():
        if section in SECTIONS:
            yield from _known_in(section, body, document, findings)
        else:
            where = f"{document.at(str(section))}: {section}"
            findings.problems.append(f"{where}: {_unknown_section(str(section), body)}")


def _known_in(section: str, body: object, document: Document, findings: Findings) -> Iterator[tuple[Key, object]]:
    if isinstance(body, dict):
        for name, value in body.items():
            path = f"{section}.{name}"
            if path in SUBSECTIONS:
                yield from _known_in(path, value, document, findings)
            elif path in KEYS and KEYS[path].section == section:
                yield KEYS[path], value
            else:
                where = f"{document.at(section, str(name))}: {path}"
                findings.problems.append(f"{where}: {_unknown(section, str(name))}")
    elif body is not None:
        where = f"{document.at(section)}: {section}"
        findings.problems.append(f"{where}: found {kind_of(body)}; allowed is a mapping with {_names(section)}")
        findings.malformed.update(path for path in KEYS if path.startswith(f"{section}."))


def _unknown_section(name: str, body: object) -> str:
    if name in KEYS or name in SUBSECTIONS:
        section, _, key = name.rpartition(".")
        return f"unknown key; write {key} below {section}:"
    noun, near = "section", nearest(name, SECTIONS)
    if not near and not isinstance(body, dict):
        noun, near = "key", nearest_key("", name)
    if near:
        return f"unknown {noun}; did you mean {near}?"
    return f"unknown {noun}; the sections are {', '.join(SECTIONS)}"


def _unknown(section: str, name: str) -> str:
    if f"{section}.{name}" in KEYS:
        return f"unknown key; write {name.rpartition('.')[2]} below {section}.{name.rpartition('.')[0]}:"
    near = nearest_key(section, name)
    if near:
        return f"unknown key; did you mean {near}?"
    if section in SECTIONS or section in SUBSECTIONS:
        return f"unknown key; {section} has {_names(section)}"
    return f"unknown key; the sections are {', '.join(SECTIONS)}"


def _names(section: str) -> str:
    paths = (*KEYS, *SUBSECTIONS)
    return ", ".join(path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] == section)


def _expand(value: object, environ: Mapping[str, str], used: set[str]) -> tuple[object, bool]:
    """Expand the references in a string or in the strings of a list; say whether there were any."""
    if isinstance(value, str):
        expanded = _expand_text(value, environ, used)
        return expanded, any(match[1] for match in _REFERENCE.finditer(value))
    if isinstance(value, list):
        return [_expand_text(item, environ, used) if isinstance(item, str) else item for item in value], False
    return value, False


def _expand_text(text: str, environ: Mapping[str, str], used: set[str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name is None:
            if match[0] == "$${":
                return "${"
            raise _BadReferenceError("malformed ${...}; allowed are ${VAR}, ${VAR:-default}, and $${ for a plain ${")
        used.add(name)
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise _BadReferenceError(
                f"the environment variable {name} is not set; set it or write ${{{name}:-default}}"
            )
        return value

    return _REFERENCE.sub(replacement, text)


def strongest(given: Iterable[Given]) -> dict[str, Given]:
    """For each path, the setting from the source that wins."""
    winners: dict[str, Given] = {}
    for one in given:
        if one.key.path not in winners or one.rank >= winners[one.key.path].rank:
            winners[one.key.path] = one
    return winners
