"""The one setting that commands on the worker's host need: where the worker tells its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runqy_agent.config.settings import StatusSettings
from runqy_agent.config.sources import Findings, read_document, read_environment, read_overrides, strongest
from runqy_agent.config.yaml_file import read_yaml
from runqy_agent.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_PATH = "status.listen"


def status_address(
    path: str | os.PathLike[str] | None, environ: Mapping[str, str], overrides: Mapping[str, str] | None = None
) -> str:
    """Find ``status.listen``. The other settings may be wrong, and their secrets out of reach.

    Args:
        path: the file, or None.
        environ: the environment.
        overrides: from the command line.

    Raises:
        ConfigError: the file cannot be read, the key is malformed, or the endpoint is turned off.
    """
    findings = Findings()
    if path is not None:
        read_document(read_yaml(path), environ, findings)
    read_environment(environ, set(), findings)
    read_overrides(overrides or {}, findings)
    if _PATH in findings.malformed:
        places = (f": {_PATH}: ", f": {_PATH.partition('.')[0]}: ")  # the key is, or its whole section
        raise ConfigError([problem for problem in findings.problems if any(place in problem for place in places)])
    found = strongest(findings.given).get(_PATH)
    address = str(found.value) if found else StatusSettings().listen
    if not address:
        raise ConfigError(f"{_PATH} is empty: this worker has no status endpoint to ask")
    return address
