"""Patterns by which an operator bounds what the server may have this host run, and what its processes inherit.

``*`` stands for any text and ``?`` for one character, never across a ``/``. Everything else stands for itself.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418, "file": 0}
_SCP_LIKE = re.compile(r"(?:(?P<user>[^/@:]+)@)?(?P<host>\[[^\]/]+\]|[^/:@\[\]]+):(?P<path>[^:].*)")
_ODD = re.compile(r"[\\#\x00-\x20\x7f]|%[0-9A-Fa-f]{2}")
_VARIABLE = re.compile(r"[A-Za-z_*?][A-Za-z0-9_*?]*")
_ANY_MORE = "**"


@dataclass(frozen=True)
class _Place:
    """A repository's address, taken apart and in one spelling.

    Attributes:
        user: of ssh alone; elsewhere it is a credential.
        port: 0 for the transport's usual one.
        path: its parts.
    """

    transport: str
    user: str
    host: str
    port: int
    path: tuple[str, ...]


class RepositoryPattern:
    """A pattern of repository URLs: ``https://github.com/acme/*``, ``git@example.com:team/jobs``, ``/srv/git/*``.

    It is compared part by part: transport, host (in any case), port, and each part of the path; ``.git`` at the end, a
    password and a user name do not count, but that of ssh does: without one, ``git`` and none are meant. ``/*`` at the
    end stands for everything below.
    """

    def __init__(self, text: str) -> None:
        """Read a pattern; a ValueError says what is wrong with it."""
        self._below = text.endswith("/*")
        self._place = _taken_apart(text[:-1] if self._below else text)
        if self._place.transport != "ssh" and "@" in text.partition("://")[2].partition("/")[0]:
            raise ValueError("leave user name and password out")
        if "**" in text:
            raise ValueError("** has no meaning there; /* at the end stands for everything below")

    def matches(self, url: str) -> bool:
        """Whether a URL is meant. One that can be read in two ways never is."""
        if "?" in url:
            return False
        try:
            asked = _taken_apart(url)
        except ValueError:
            return False
        own = self._place
        if (asked.transport, asked.port) != (own.transport, own.port) or not _like(own.host, asked.host):
            return False
        if asked.user != own.user and (own.user or asked.user != "git"):
            return False
        if self._below:
            return len(asked.path) > len(own.path) and all(map(_like, own.path, asked.path))
        wanted, path = (_without_suffix(place.path) for place in (own, asked))
        return len(path) == len(wanted) and all(map(_like, wanted, path))


class CommandPattern:
    """A pattern of start commands, compared word by word: ``python main.py``, ``python jobs/*.py``, ``gunicorn **``.

    A word that begins with ``*`` or ``?`` stands for no option, and no such word for a path that leads upwards. ``**``
    as the last word stands for any further words.
    """

    def __init__(self, text: str) -> None:
        """Read a pattern; a ValueError says what is wrong with it."""
        self._words = shlex.split(text)
        self._more = self._words[-1:] == [_ANY_MORE]
        if self._more:
            self._words.pop()
        if not self._words:
            raise ValueError("found no program in it")
        if _ANY_MORE in self._words:
            raise ValueError("** stands at the end, for any further words")

    def matches(self, words: tuple[str, ...]) -> bool:
        """Whether a command, split into words, is meant."""
        if len(words) < len(self._words) or (len(words) > len(self._words) and not self._more):
            return False
        return all(map(_like_word, self._words, words))


def pattern_problem(kind: type[RepositoryPattern | CommandPattern], text: str) -> str:
    """What is wrong with a pattern of this kind; "" for nothing."""
    try:
        kind(text)
    except ValueError as error:
        return str(error)
    return ""


def variable_problem(pattern: str) -> str:
    """What is wrong with a name, or pattern, of environment variables; "" for nothing."""
    if not _VARIABLE.fullmatch(pattern):
        return f"found {pattern!r}; allowed are names of variables, with * for any text and ? for one character"
    if pattern.upper().startswith("RUNQY_"):
        return f"found {pattern!r}; the agent's own settings are never passed on"
    return ""


def _taken_apart(url: str) -> _Place:
    if url.startswith("/"):
        return _Place("file", "", "", 0, _parts(url))
    if "://" not in url:
        match = _SCP_LIKE.fullmatch(url)
        if match is None:
            raise ValueError("found neither a URL, nor user@host:path, nor an absolute path")
        return _Place("ssh", match["user"] or "", _host(match["host"]), 0, _parts(match["path"]))
    parts = urlsplit(url.replace("?", "\0"))  # here it is a wildcard, and in a repository's URL nothing
    transport = parts.scheme.lower()
    if transport not in _PORTS:
        raise ValueError(f"found the transport {transport!r}; allowed are {', '.join(_PORTS)}")
    user, _, place = parts.netloc.rpartition("@")
    host, port = _split_port(place.replace("\0", "?"))
    host = "" if transport == "file" and host == "localhost" else host
    if (transport == "file") != (not host) or parts.fragment:
        raise ValueError("found no host, or one that has no meaning there")
    path = _parts(parts.path.replace("\0", "?"))
    port = 0 if port == _PORTS[transport] else port
    return _Place(transport, user if transport == "ssh" else "", _host(host), port, path)


def _split_port(place: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5})?)?", place)
    if match is None:
        raise ValueError("found a malformed host or port")
    return match[1], int(match[2] or 0)


def _host(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path. What servers understand in different ways raises ValueError."""
    bare = unquote(path).removeprefix("/").removesuffix("/")
    parts = bare.split("/") if bare else []
    if "%2f" in path.lower() or any(part in {"", ".", ".."} or _ODD.search(part) for part in parts):
        raise ValueError("found a path with empty parts, dots, a backslash or encoded characters")
    return tuple(parts)


def _without_suffix(path: tuple[str, ...]) -> tuple[str, ...]:
    return (*path[:-1], path[-1].removesuffix(".git") or path[-1]) if path else path


def _like(pattern: str, text: str) -> bool:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _like_word(pattern: str, word: str) -> bool:
    if pattern == word:
        return True
    if (pattern.startswith(("*", "?")) and word.startswith("-")) or ".." in word.split("/"):
        return False
    wanted, found = pattern.split("/"), word.split("/")
    return len(wanted) == len(found) and all(map(_like, wanted, found))
