"""What commands on the worker's host need of its settings: where it tells its status, and where its token may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent.config.places import (
    AUTO,
    FALLBACK,
    default_address,
    known_directories,
    known_sockets,
    runtime_directory,
    socket_name,
)
from runqy_agent.config.settings import DeploymentSettings
from runqy_agent.config.sources import Findings, read_document, read_environment, read_overrides, strongest
from runqy_agent.config.yaml_file import read_yaml
from runqy_agent.errors import ConfigError
from runqy_agent.peers import somebody_listens

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Any

    from runqy_agent.config.settings import Config

_PATH = "status.listen"


def listen_address(config: Config, environ: Mapping[str, str]) -> str:
    """Return where the worker with these settings listens; "" for nowhere."""
    if config.status.listen != AUTO:
        return config.status.listen
    return default_address(environ, socket_name(config.path, config.queues()))


def token_directories(config: Config, environ: Mapping[str, str]) -> list[Path]:
    """Return where a worker may keep the token of its endpoint, best first."""
    directory = runtime_directory(environ)
    return [*([directory] if directory else []), Path(config.deployment.dir)]


class LocalSettings:
    """``status.listen`` and ``deployment.dir``. The other settings may be wrong, and their secrets out of reach."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        environ: Mapping[str, str],
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        """Read them.

        Args:
            path: the file, or None.
            environ: the environment.
            overrides: from the command line.

        Raises:
            ConfigError: the file cannot be read.
        """
        self._path = path
        self._environ = environ
        self._findings = Findings()
        if path is not None:
            read_document(read_yaml(path), environ, self._findings)
        read_environment(environ, set(), self._findings)
        read_overrides(overrides or {}, self._findings)
        self._given = strongest(self._findings.given)

    def _value(self, key: str, default: Any) -> Any:
        found = self._given.get(key)
        return found.value if found else default

    def address(self) -> str:
        """Return where the worker listens: as its settings say, else where its socket file is.

        Raises:
            ConfigError: the key is malformed, the endpoint is turned off, or there are several workers and nothing
                that says which is meant.
        """
        if _PATH in self._findings.malformed:
            places = (f": {_PATH}: ", f": {_PATH.partition('.')[0]}: ")  # the key is, or its whole section
            problems = self._findings.problems
            raise ConfigError([problem for problem in problems if any(place in problem for place in places)])
        address = str(self._value(_PATH, AUTO))
        if not address:
            raise ConfigError(f"{_PATH} is empty: this worker has no status endpoint to ask")
        return self._find_socket() if address == AUTO else address

    def _find_socket(self) -> str:
        queue = self._value("worker.queue", "")
        queues = [queue] if queue else list(dict.fromkeys(self._value("worker.queues", [])))
        known = self._path is not None or bool(queues)
        found = known_sockets(self._environ, socket_name(self._path, queues) if known else "*.sock")
        living = [path for path in found if somebody_listens(path)]
        if len(living) > 1 and not known:
            names = ", ".join(map(str, living))
            raise ConfigError(f"several workers are on this host; say which with --config or --address ({names})")
        return str((living or found)[0]) if found else FALLBACK

    def token_directories(self) -> list[Path]:
        """Return where the worker's token may be."""
        directory = self._value("deployment.dir", DeploymentSettings().dir)
        return [*known_directories(self._environ), Path(directory)]
