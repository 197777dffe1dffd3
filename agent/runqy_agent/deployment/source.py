"""What is deployed: a repository, a branch and a path, each checked before Git sees it."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

log = logging.getLogger(__name__)

DEFAULT_USERNAME = "x-access-token"
"""The user name under which the large Git hosts accept any kind of token."""

_ALLOWED = "https://, http://, ssh://, git://, file://, user@host:path or an absolute local path"
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
_SCP_LIKE = re.compile(r"(?P<user>[A-Za-z0-9_][\w.+-]*)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][\w.-]*):(?P<path>.+)")
_HOST = re.compile(r"[A-Za-z0-9_][\w.-]*|[0-9A-Fa-f:.]+")
_BRANCH_REFUSED = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)")
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ABBREVIATED_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_LONGEST_USERNAME = 20
_NO_PASSWORD = frozenset({"", "x-oauth-basic"})  # what people write after a token that stands as the user name


@dataclass(frozen=True)
class Source:
    """What to deploy.

    Attributes:
        git_url: the repository. A token in it is used, and shown nowhere.
        branch: a branch, a tag, or a commit (full, or abbreviated to at least 7 digits).
        code_path: the directory inside the repository that holds the code; empty for its root.
        requirements_file: the file that says what is installed, relative to ``code_path``; empty to look for one.
    """

    git_url: str = field(repr=False)
    branch: str
    code_path: str = ""
    requirements_file: str = ""


@dataclass(frozen=True)
class Location:
    """A checked repository URL, taken apart.

    Attributes:
        url: the URL without any secret: fit for ``ps``, configuration files, logs and errors.
        transport: ``https``, ``http``, ``ssh``, ``git`` or ``file``.
        username: the user name that stood in an http(s) URL, if any.
        token: the token or password that stood in an http(s) URL, if any.
    """

    url: str
    transport: str
    username: str = ""
    token: str = field(default="", repr=False)

    @property
    def takes_token(self) -> bool:
        """Whether a token means anything to this transport."""
        return self.transport in {"https", "http"}


def parse_location(git_url: str) -> Location:
    """Check a repository URL and take its secrets out.

    Raises:
        GitError: it is not of an allowed form. ``ext::`` and all other remote helpers, options and unknown schemes
            are refused.
    """
    url = git_url.strip(" \n")
    if not url:
        raise GitError("the deployment names no Git repository: git_url is empty")
    if _UNPRINTABLE.search(url):
        raise GitError("the Git URL holds white space or control characters")
    if url.startswith("-"):
        raise GitError(f"the Git URL begins with '-', which Git would take for an option; allowed: {_ALLOWED}")
    if _HELPER.match(url):
        helper = url.partition("::")[0]
        raise GitError(f"Git remote helpers ({helper}::) are refused; allowed: {_ALLOWED}")
    if url.startswith("/"):
        return Location(url, "file")
    if "://" not in url:
        return _scp_like(url)
    return _with_scheme(url)


def check_branch(branch: str) -> str:
    """Return ``branch`` if it may name a branch, a tag or a commit.

    Raises:
        GitError: Git would take it for an option, a range or a pattern, or it can be no name of a ref.
    """
    if (
        not branch
        or branch.startswith(("-", "/", "."))
        or branch.endswith(("/", "."))
        or branch == "@"
        or _BRANCH_REFUSED.search(branch)
    ):
        raise GitError(f"{branch!r} is no possible name of a branch, a tag or a commit")
    return branch


def check_code_path(code_path: str) -> str:
    """Return ``code_path`` in its shortest form (``./jobs//gpu/`` becomes ``jobs/gpu``); the root is ``""``.

    Raises:
        GitError: it is absolute, leads upwards, enters ``.git`` or holds control characters.
    """
    path = PurePosixPath(code_path.strip())
    if any(ord(character) < ord(" ") or character == "\x7f" for character in code_path.strip()):
        raise GitError(f"code_path {code_path!r} holds control characters")
    if path.is_absolute() or ".." in path.parts or "\\" in code_path:
        raise GitError(f"code_path {code_path!r} must be a relative path with '/' that stays inside the repository")
    if any(part.lower() == ".git" for part in path.parts):
        raise GitError(f"code_path {code_path!r} must not lead into .git")
    return "" if path == PurePosixPath() else str(path)


def is_full_commit(branch: str) -> bool:
    """Whether ``branch`` is a whole commit id, so that nobody need be asked what it points at."""
    return _FULL_COMMIT.fullmatch(branch) is not None


def may_be_abbreviated_commit(branch: str) -> bool:
    """Whether ``branch`` may be the beginning of a commit id."""
    return _ABBREVIATED_COMMIT.fullmatch(branch) is not None


def _scp_like(url: str) -> Location:
    match = _SCP_LIKE.fullmatch(url)
    if match is None or match["path"].startswith("-"):
        raise GitError(f"the Git URL is of no allowed form; allowed: {_ALLOWED}")
    return Location(url, "ssh")


def _with_scheme(url: str) -> Location:
    scheme = url.partition("://")[0].lower()
    if scheme not in {"https", "http", "ssh", "git", "file"}:
        raise GitError(f"Git over {scheme}:// is refused; allowed: {_ALLOWED}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as malformed:
        raise GitError(f"the Git URL is malformed: {scheme}://…") from malformed
    if scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise GitError("a file:// Git URL must hold an absolute path: file:///srv/git/repository.git")
        return Location(url, scheme)
    if not host or not _HOST.fullmatch(host) or len(parts.path) <= 1:
        raise GitError(f"the Git URL names no host or no repository: {scheme}://…")
    if scheme in {"ssh", "git"}:
        if parts.password is not None or (parts.username or "").startswith("-"):
            raise GitError(f"a password or an option in a {scheme}:// Git URL is refused; use git.ssh_key")
        return Location(url, scheme)
    username, token = _userinfo(parts)
    address = f"[{host}]" if ":" in host else host
    netloc = address if port is None else f"{address}:{port}"
    if scheme == "http" and not _is_loopback(host):
        log.warning("the code is fetched from %s without encryption: use https", netloc)
    return Location(parts._replace(scheme=scheme, netloc=netloc).geturl(), scheme, username, token)


def _userinfo(parts: SplitResult) -> tuple[str, str]:
    """User name and token in a URL. A lone ``user@`` may be either: only a short one can be a name."""
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if _UNPRINTABLE.search(username + password):
        raise GitError("the user name or password in the Git URL holds white space or control characters")
    if not username or password not in _NO_PASSWORD:
        return username, password
    return (username if len(username) < _LONGEST_USERNAME else ""), username


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
