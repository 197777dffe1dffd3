"""What the supervised process finds in its environment: a short list, the author's variables and the vaults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runqy_agent.child_environment import PROCESS, inherit
from runqy_agent.process.vault_names import refused_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def process_environment(
    virtualenv: Path | None,
    env_vars: Mapping[str, str],
    vaults: Mapping[str, str],
    *,
    passed: Mapping[str, str] | None = None,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a supervised process. None of the agent's own secrets is in it.

    Args:
        virtualenv: its programs come first on PATH; None for none.
        env_vars: the deployment's variables; they win over what is inherited.
        vaults: name to secret value; they win over env_vars, but cannot set loader variables.
        passed: what the operator lets it have of the agent's environment besides; env_vars win over it.
        inherited: the environment to choose from; the agent's own by default.
    """
    environment = inherit(PROCESS, inherited) | dict(passed or {})
    environment.setdefault("LANG", "C.UTF-8")
    # Printing reaches the log at once, and the protocol is UTF-8 whatever the host's locale is.
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    environment |= env_vars
    refused = set(refused_names(vaults))
    environment |= {name: value for name, value in vaults.items() if name not in refused}
    if virtualenv is not None:
        environment["VIRTUAL_ENV"] = str(virtualenv)
        environment["PATH"] = f"{virtualenv / 'bin'}{os.pathsep}{environment['PATH']}"
    return environment
