"""What the operator of this host lets the server have it fetch and run. Empty lists let it all."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from runqy_agent.config.patterns import CommandPattern, RepositoryPattern
from runqy_agent.deployment.source import parse_location
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runqy_agent.config.settings import DeploymentSettings

_ADVICE = "change what the server asks for, or the configuration of this host"


class NotAllowedError(DeploymentError):
    """The operator of this host does not allow what the server asks for."""


class Bounds:
    """``deployment.allowed_repositories`` and ``deployment.allowed_commands``."""

    def __init__(self, settings: DeploymentSettings) -> None:
        self._repositories = settings.allowed_repositories
        self._commands = settings.allowed_commands

    @property
    def of_repositories(self) -> bool:
        """Whether there is any bound of repositories, so that a redirect must not lead out of it."""
        return bool(self._repositories)

    def check_repository(self, git_url: str) -> None:
        """Check a repository before anything is fetched from it.

        Raises:
            GitError: the URL is malformed.
            NotAllowedError: no pattern matches it.
        """
        if not self._repositories:
            return
        url = parse_location(git_url).url
        if not any(RepositoryPattern(pattern).matches(url) for pattern in self._repositories):
            allowed = ", ".join(self._repositories)
            raise NotAllowedError(
                f"the server asks for the repository {url}, and deployment.allowed_repositories allows {allowed}: "
                + _ADVICE
            )

    def check_command(
        self, startup_cmd: str, env_vars: Mapping[str, str], steering: Callable[[Iterable[str]], list[str]]
    ) -> None:
        """Check a start command, and that no variable turns an allowed one into another.

        Args:
            startup_cmd: as the server says.
            env_vars: the deployment's variables.
            steering: picks the names by which programs are started, found or loaded.

        Raises:
            NotAllowedError: no pattern matches the command, or a variable has such a name.
        """
        if not self._commands:
            return
        allowed = f"deployment.allowed_commands allows {', '.join(self._commands)}: {_ADVICE}"
        try:
            words = tuple(shlex.split(startup_cmd))
        except ValueError:
            words = ()
        if not any(CommandPattern(pattern).matches(words) for pattern in self._commands):
            raise NotAllowedError(f"the server asks for the start command {startup_cmd!r}, and {allowed}")
        if names := steering(env_vars):
            raise NotAllowedError(
                f"the deployment's env_vars set {', '.join(names)}, which could start another program, and {allowed}"
            )
