"""``config.yml`` as plain data: read within bounds, parsed safely, duplicate keys refused."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from runqy_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Document:
    """A parsed configuration file.

    Attributes:
        name: the file's name, as given.
        data: the top-level mapping; empty for an empty file.
        lines: the line, from 1, of each section (``("worker", "")``) and key (``("worker", "queue")``); a section
            within another one goes by its path (``("redis.sentinel", "nodes")``).
    """

    name: str
    data: dict[Any, Any] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)

    def at(self, section: str, name: str = "") -> str:
        """Where a section or a key in it stands, as compilers write it: ``config.yml:12``."""
        line = self.lines.get((section, name))
        return f"{self.name}:{line}" if line else self.name


def read_yaml(path: str | os.PathLike[str]) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, is not YAML, is no mapping, or gives a key twice.
    """
    name = os.fspath(path)
    text = _text(name)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(name)
        duplicates = [f"{name}:{problem}" for problem in _duplicates(node, "", set())]
        if duplicates:
            raise ConfigError(duplicates)
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        # What PyYAML's constructors let through for a value that does not fit its tag, as in `!!int x` or 2024-13-45.
        raise ConfigError(f"{name}: not valid YAML: a value does not fit its type; put dates in quotes") from None
    if data is None:
        return Document(name)
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: found a {_kind(node)} at the top level; allowed is a mapping of sections")
    return Document(name, data, dict(_lines(node)))


def _text(name: str) -> str:
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - the name may also be a device such as /dev/stdin
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{name}: cannot read the configuration file: {reason}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{name}: larger than {_MAX_BYTES} bytes, so hardly a configuration file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text") from None


def _duplicates(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias may point back to where we are
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item, path, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        below = path
        if isinstance(key, yaml.ScalarNode):
            below = f"{path}.{key.value}" if path else str(key.value)
            line = key.start_mark.line + 1
            earlier = first.get((key.tag, key.value))
            if earlier is not None:
                yield f"{line}: {below}: given twice, first on line {earlier}"
            first[key.tag, key.value] = line
        yield from _duplicates(value, below, seen)


def _lines(node: yaml.Node) -> Iterator[tuple[tuple[str, str], int]]:
    for section, body in _pairs(node):
        yield (section.value, ""), section.start_mark.line + 1
        for key, inner in _pairs(body):
            yield (section.value, key.value), key.start_mark.line + 1
            yield (f"{section.value}.{key.value}", ""), key.start_mark.line + 1
            for name, _ in _pairs(inner):
                yield (f"{section.value}.{key.value}", name.value), name.start_mark.line + 1


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key, value


def _kind(node: yaml.Node) -> str:
    return "list" if isinstance(node, yaml.SequenceNode) else "single value"
