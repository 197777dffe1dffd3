r"""Makes text from outside harmless for terminals, logs and whoever reads them line by line.

What authors print, ids, types, names and errors may hold what moves a cursor, hides text, turns its direction around or
begins a new line. It is shown as an escape such as ``\x1b`` instead of being obeyed.
"""

from __future__ import annotations

import json
import re

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0a-\x1f\x7f"  # C0 without the tab, and DEL
    "\x80-\x9f"  # C1, which some terminals obey also as UTF-8
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of writing
    "\ufeff\ufff9-\ufffb"  # byte order mark, interlinear annotation
    "\ud800-\udfff"  # lone surrogates, which cannot be encoded
    "\U000e0000-\U000e007f"  # invisible tags
    "]"
)
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_SHORT = {"\n": "\\n", "\r": "\\r"}
_LAST_BYTE, _LAST_OF_PLANE_0 = 0xFF, 0xFFFF


def escape(text: str) -> str:
    """Return the text in one line without anything that is obeyed instead of shown; tabs stay."""
    return _UNSAFE.sub(lambda found: _escape_character(found[0]), text)


def escape_lines(text: str, indent: str) -> str:
    """Escape all but the line breaks; every line after the first is indented, so that none passes for a new entry."""
    first, *more = map(escape, text.split("\n"))
    return "\n".join([first, *(f"{indent}{line}" if line else "" for line in more)])


def to_json(value: object, *, ascii_only: bool = False) -> str:
    """Serialize to JSON in one line that may be shown as it is.

    Strings keep their content, but for lone surrogates, which no reader accepts: they become their escape.

    Args:
        value: what is to be serialized; what JSON does not know becomes its text.
        ascii_only: for where nobody knows the encoding.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = _UNSAFE.sub(lambda found: _escape_in_json(found[0]), text)
    return _NOT_ASCII.sub(lambda found: _escape_in_json(found[0]), text) if ascii_only else text


def _escape_character(character: str) -> str:
    code = ord(character)
    if code <= _LAST_BYTE:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code <= _LAST_OF_PLANE_0 else f"\\U{code:08x}"


def _escape_in_json(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return f"\\{_escape_character(character)}"
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
