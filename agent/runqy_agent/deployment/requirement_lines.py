"""The grammar of requirement files, by pip's own rules.

They are those of ``pip/_internal/req/req_file.py`` and ``constructors.py``, step by step; the tests hold the two
against each other.
"""

from __future__ import annotations

import codecs
import locale
import optparse
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BOMS = (  # in this order: the mark of UTF-16 is the beginning of that of UTF-32
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODING = re.compile(rb"coding[:=]\s*([-\w.]+)")
_HASH = re.compile(r"(sha256|sha384|sha512):")
_COMMENT = re.compile(r"(^|\s+)#.*$")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
"""An environment variable, as pip expands them."""

_URL = re.compile(r"(?:(?:git|hg|svn|bzr)(?:\+[a-z]+)?|https?|ftp|file):", re.IGNORECASE)
DIRECT = re.compile(r"\s*[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*(?P<url>\S+)")
"""A requirement with the place it comes from: ``name @ url``."""

_EXTRAS = re.compile(r"(.+)\[[^\]]+\]\s*")
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|tbz|txz|tlz|tar\.(gz|bz2|xz|lz|lzma))$", re.IGNORECASE)
_LISTS = {  # option → the name under which it is kept
    ("-r", "--requirement"): "requirements",
    ("-c", "--constraint"): "constraints",
    ("-e", "--editable"): "editables",
    ("-f", "--find-links"): "find_links",
    ("--extra-index-url",): "extra_indexes",
    ("--trusted-host",): "trusted_hosts",
    ("--no-binary",): "no_binary",
    ("--only-binary",): "only_binary",
    ("--hash",): "hashes",
    ("--use-feature",): "only_pip",
    ("-C", "--config-setting", "--config-settings"): "only_pip",
    ("--global-option",): "only_pip",
    ("--install-option",): "only_pip",
    ("--all-releases",): "only_pip",
    ("--only-final",): "only_pip",
}
_FLAGS = {
    ("--no-index",): "no_index",
    ("--require-hashes",): "as_pip",
    ("--no-require-hashes",): "as_pip",
    ("--pre",): "as_pip",
    ("--prefer-binary",): "as_pip",
}


@dataclass(frozen=True)
class Line:
    """A logical line.

    Attributes:
        number: of its first line in the file, from 1.
        requirement: what stands before the options.
        options: what stands in them; a list, or whether it was given.
        text: all of it.
    """

    number: int
    requirement: str
    options: optparse.Values
    text: str

    @property
    def installs(self) -> str:
        """What is to be installed: the requirement, or else the (first) editable one."""
        return self.requirement or next(iter(self.options.editables or ()), "")

    @property
    def includes(self) -> str:
        """The file that is to be read in place of this line."""
        if self.installs:
            return ""
        return next(iter(self.options.requirements or self.options.constraints or ()), "")


def decode(content: bytes) -> str:
    """The text of a requirements file.

    Raises:
        ValueError: it is in another encoding than it says.
        LookupError: it names no encoding.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    for line in content.split(b"\n")[:2]:
        if line.startswith(b"#") and (found := _CODING.search(line)):
            return content.decode(found[1].decode("ascii"))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode(locale.getpreferredencoding(do_setlocale=False))


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a requirements file, joined where they end in a backslash, without comments; with their numbers."""
    first, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        comment = _COMMENT.match(line)
        first = first if parts else number
        parts.append(f" {line}" if comment else line)
        if line.endswith("\\") and not comment:
            parts[-1] = line.strip("\\")
            continue
        if joined := _COMMENT.sub("", "".join(parts)).strip():
            yield first, joined
        parts = []
    if joined := _COMMENT.sub("", "".join(parts)).strip():
        yield first, joined


def parse_line(number: int, text: str) -> Line:
    """Take a logical line apart.

    Raises:
        ValueError: pip would not understand it.
    """
    words = text.split(" ")
    at = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    options, _ = _parser().parse_args(shlex.split(" ".join(words[at:])))
    if wrong := [each for each in options.hashes or () if not _HASH.match(each)]:
        raise ValueError(f"{wrong[0]} is no hash like sha256:abcd…")
    return Line(number, " ".join(words[:at]), options, text)


class _Parser(optparse.OptionParser):
    def error(self, msg: str) -> NoReturn:
        raise ValueError(msg)


def _parser() -> _Parser:
    parser = _Parser(add_help_option=False)
    parser.add_option("-i", "--index-url", "--pypi-url", dest="index")
    for names, name in _LISTS.items():
        parser.add_option(*names, dest=name, action="append")
    for names, name in _FLAGS.items():
        parser.add_option(*names, dest=name, action="store_true")
    return parser


def local_target(text: str, directory: Path, *, editable: bool = False) -> str | None:
    """The path or ``file:`` URL that a requirement installs; None if it comes from elsewhere."""
    is_url = _URL.match(text) is not None
    bare = text if editable else text.split("; " if is_url else ";", 1)[0].strip()
    if is_url:
        return bare if bare.lower().startswith("file:") else None
    if direct := DIRECT.fullmatch(bare.partition(" ;")[0]):
        url = direct["url"]
        return None if _URL.match(url) and not url.lower().startswith("file:") else url
    stripped = _EXTRAS.fullmatch(bare)
    path = stripped[1].strip() if stripped else bare
    if editable or "/" in path or path.startswith("."):
        return path
    if _ARCHIVE.search(path) and ("@" not in path or (directory / path).is_file()):
        return path
    return None
