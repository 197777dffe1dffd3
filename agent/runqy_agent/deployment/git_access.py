"""The environment in which Git runs: no prompts, few transports, checked host keys, tokens through askpass only."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from runqy_agent.child_environment import GIT, NO_PROMPTS, inherit
from runqy_agent.deployment.files import write_atomically
from runqy_agent.deployment.source import DEFAULT_USERNAME
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.config.settings import GitSettings, Secret
    from runqy_agent.deployment.source import Location

OPTIONS = (
    *("-c", "credential.helper="),  # no stored credential is read, none is written
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "protocol.version=2"),
    *("-c", "submodule.recurse=false"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    *("-c", "http.lowSpeedLimit=1"),  # a connection that stalls for a minute is given up
    *("-c", "http.lowSpeedTime=60"),
)
"""Options of every git command."""
NO_REDIRECTS = ("-c", "http.followRedirects=false")
"""Options where the repository is bounded: a server may not lead elsewhere."""

# Git answers a redirect to another host by asking for that host's password. So the prompt is compared with the
# origin the token is meant for; LC_ALL=C keeps the prompts in English.
_ASKPASS = """\
#!/bin/sh
# Hands the Git token of runqy-agent to git, and only for the origin it belongs to. Holds no secret itself.
case $1 in
"Username for '$AGENT_GIT_ORIGIN"[\\'/]*) printf '%s\\n' "$AGENT_GIT_USERNAME" ;;
"Password for '$AGENT_GIT_LOGIN"[\\'/]*) printf '%s\\n' "$AGENT_GIT_TOKEN" ;;
*) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class GitAccess:
    """How Git reaches one repository.

    Attributes:
        location: the repository.
        env: the whole environment of a git command.
        secrets: what must be blanked in its output.
        options: of every git command.
    """

    location: Location
    env: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    options: tuple[str, ...] = OPTIONS


def prepare_access(location: Location, settings: GitSettings, server_token: Secret | None, root: Path) -> GitAccess:
    """Work out the environment of git for ``location``.

    The token is the first there is of: ``git.token`` or ``git.token_file``, the URL's, the server's. It is used for
    http(s) alone. The askpass script, which holds no secret, is written to ``root`` (a temporary directory may be
    mounted ``noexec``).

    Raises:
        GitError: a configured key, known_hosts or token file cannot be read.
    """
    env = inherit(GIT) | NO_PROMPTS
    env |= {
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "GIT_SSH_COMMAND": _ssh_command(settings),
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }
    configured = _configured_token(settings)
    token = configured or location.token or (server_token.reveal().strip() if server_token else "")
    if location.takes_token and token:
        username = location.username or DEFAULT_USERNAME
        if username == token:  # it stood alone in the URL: it is the token, and must not be in a prompt
            username = DEFAULT_USERNAME
        parts = urlsplit(location.url)
        env |= {
            "GIT_ASKPASS": str(_askpass(root)),
            "AGENT_GIT_ORIGIN": f"{parts.scheme}://{parts.netloc}",
            "AGENT_GIT_LOGIN": f"{parts.scheme}://{quote(username, safe='')}@{parts.netloc}",
            "AGENT_GIT_USERNAME": username,
            "AGENT_GIT_TOKEN": token,
        }
    return GitAccess(location, env, tuple(secret for secret in (token, location.token) if secret))


def _configured_token(settings: GitSettings) -> str:
    if settings.token:
        return settings.token.reveal().strip()
    if not settings.token_file:
        return ""
    try:
        return Path(settings.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as unreadable:
        raise GitError(f"git.token_file {settings.token_file} cannot be read: {unreadable}") from unreadable


def _askpass(root: Path) -> Path:
    script = root / "git-askpass"
    if not (script.is_file() and os.access(script, os.X_OK) and script.read_text(encoding="utf-8") == _ASKPASS):
        write_atomically(script, _ASKPASS.encode(), mode=0o700)
    return script


def _ssh_command(settings: GitSettings) -> str:
    """The ssh command line, quoted for the shell through which Git starts it."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]
    if settings.known_hosts:
        hosts = _readable("git.known_hosts", settings.known_hosts)
        quoted = f'"{_unexpanded(hosts)}"'  # ssh splits this option at blanks itself
        command += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={quoted}"]
    else:
        command += ["-o", "StrictHostKeyChecking=accept-new"]
    if settings.ssh_key:
        command += ["-i", _unexpanded(_readable("git.ssh_key", settings.ssh_key)), "-o", "IdentitiesOnly=yes"]
    return shlex.join(command)


def _readable(key: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise GitError(f"{key}: {path} is no file this user can read")
    return path


def _unexpanded(path: Path) -> str:
    return str(path).replace("%", "%%")  # ssh expands %h and the like
