"""Values as the settings need them: strictly from YAML, leniently from text.

A YAML value must have the right kind already, so that ``concurrency: "4"`` is noticed. Text, from the environment, the
command line or a ``${VAR}``, has no kind of its own and is read as the key's kind demands.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from runqy_agent.config.duration import ALLOWED as ALLOWED_DURATION
from runqy_agent.config.duration import Duration, parse_duration
from runqy_agent.config.keys import Key, nearest
from runqy_agent.config.settings import Secret
from runqy_agent.config.size import ALLOWED as ALLOWED_SIZE
from runqy_agent.config.size import Size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_LARGEST = 2**63 - 1
_SHOWN = 60  # characters of a found value
_ALLOWED: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.ListType: "a list of strings",
}


class MalformedValueError(ValueError):
    """A value is not what its key allows; the text says what was found, what is allowed, and a hint."""


class _Wrong(ValueError):  # noqa: N818 - never leaves this module; its text is only the hint
    pass


def convert(key: Key, value: object, *, lenient: bool) -> Any:
    """Give a value the type its key has.

    Args:
        key: the key the value is for.
        value: what YAML gave, or text.
        lenient: whether text stands for a number, a boolean or a list, as it does outside of YAML.

    Raises:
        MalformedValueError: it does not fit. A secret's value is not in the text.
    """
    try:
        return _lenient(key.type, value) if lenient and isinstance(value, str) else _strict(key.type, value)
    except _Wrong as wrong:
        found = kind_of(value) if key.secret else _found(value)
        hint = str(wrong) or (_suggestion(key.type, value) if isinstance(value, str) else "")
        raise MalformedValueError(
            f"found {found}; allowed is {allowed(key.type)}" + (f"; {hint}" if hint else "")
        ) from None


def allowed(kind: inspect.Type) -> str:
    """What a key may hold, in words."""
    match kind:
        case inspect.UnionType(types=types):
            return allowed(next(member for member in types if not isinstance(member, inspect.NoneType)))
        case inspect.IntType(ge=ge):
            return "an integer" if ge is None else f"an integer of at least {ge}"
        case inspect.FloatType(ge=ge):
            return "a number" if ge is None else f"a number of at least {ge:g}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) or '""' for value in values)
        case inspect.CustomType(cls=cls) if cls is Duration:
            return ALLOWED_DURATION
        case inspect.CustomType(cls=cls) if cls is Size:
            return ALLOWED_SIZE
    return _ALLOWED.get(type(kind), "a string")


def kind_of(value: object) -> str:
    """What sort of thing YAML gave, without showing it."""
    if value == "" and isinstance(value, str):
        return "an empty string"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    names |= {dict: "a mapping", list: "a list", type(None): "nothing (null)"}
    return names.get(type(value), f"a {type(value).__name__}")


def _found(value: object) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "an integer of more than 64 bits"
    if isinstance(value, (int, float)) or (isinstance(value, str) and value):
        text = f'"{value}"' if isinstance(value, str) else str(value)
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        return f"{text if len(text) <= _SHOWN else text[:_SHOWN] + '...'} ({kind_of(value)})"
    return kind_of(value)


def _suggestion(kind: inspect.Type, value: str) -> str:
    if isinstance(kind, inspect.LiteralType):
        near = nearest(value, tuple(str(choice) for choice in kind.values if choice))
        return f"did you mean {near}?" if near else ""
    return ""


def _strict(kind: inspect.Type, value: object) -> Any:
    match kind:
        case inspect.UnionType(types=types):
            optional = any(isinstance(member, inspect.NoneType) for member in types)
            inner = next(member for member in types if not isinstance(member, inspect.NoneType))
            return None if optional and value is None else _strict(inner, value)
        case inspect.ListType():
            return _list(value)
        case inspect.CustomType(cls=cls):
            return _CUSTOM[cls](value)
    return _PLAIN[type(kind)](kind, value)


def _lenient(kind: inspect.Type, text: str) -> Any:
    match kind:
        case inspect.UnionType(types=types):
            return _lenient(next(member for member in types if not isinstance(member, inspect.NoneType)), text)
        case inspect.IntType() if _INTEGER.fullmatch(text.strip()):
            return _strict(kind, int(text))
        case inspect.FloatType():
            return _strict(kind, _number(text))
        case inspect.BoolType() if text.strip().lower() in _TRUE | _FALSE:
            return text.strip().lower() in _TRUE
        case inspect.IntType() | inspect.BoolType():
            raise _Wrong
        case inspect.ListType():
            return [item.strip() for item in text.split(",")] if text.strip() else []
    return _strict(kind, text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _Wrong from None


def _unquoted(kind: inspect.Type, value: object) -> _Wrong:
    """The refusal of a quoted number or boolean; says so where the quotes are all that is wrong."""
    if isinstance(value, str):
        try:
            _lenient(kind, value)
        except _Wrong:
            return _Wrong()
        return _Wrong("write it without quotes")
    return _Wrong()


def _int(kind: Any, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unquoted(kind, value)
    if value > _LARGEST or value < (-_LARGEST if kind.ge is None else kind.ge):
        raise _Wrong
    return value


def _float(kind: Any, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _unquoted(kind, value)
    if not math.isfinite(value) or abs(value) > _LARGEST or (kind.ge is not None and value < kind.ge):
        raise _Wrong
    return float(value)


def _bool(kind: Any, value: object) -> bool:
    if not isinstance(value, bool):
        raise _unquoted(kind, value)
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        hint = "" if isinstance(value, (dict, list)) or value is None else "put it in quotes"
        raise _Wrong('write "" or leave the key out' if value is None else hint)
    if "\0" in value:
        raise _Wrong("it holds a NUL character")
    return value


def _literal(kind: Any, value: object) -> str:
    if not isinstance(value, str) or value not in kind.values:
        raise _Wrong
    return value


_PLAIN: dict[type[inspect.Type], Callable[[Any, object], Any]] = {
    inspect.IntType: _int,
    inspect.FloatType: _float,
    inspect.BoolType: _bool,
    inspect.StrType: lambda _, value: _string(value),
    inspect.LiteralType: _literal,
}


def _list(value: object) -> list[str]:
    if not isinstance(value, list):
        raise _Wrong(f"write it as a list: [{value}]" if isinstance(value, str) and value else "")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _Wrong(f"item {index + 1} is {_found(item)}")
    return value


def _duration(value: object) -> Duration:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            _, _, hint = str(error).partition(f"allowed is {ALLOWED_DURATION}; ")
            raise _Wrong(hint) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:
            return Duration(0)
        raise _Wrong(f'write it with its unit: "{value}s"' if 0 < value < _LARGEST else "it must not be negative")
    raise _Wrong


def _size(value: object) -> Size:
    if isinstance(value, str):
        try:
            return parse_size(value)
        except ValueError:
            raise _Wrong from None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return Size(value)
    raise _Wrong


_CUSTOM: dict[Any, Callable[[object], Any]] = {
    Duration: _duration,
    Size: _size,
    Secret: lambda value: Secret(_string(value)),
}
