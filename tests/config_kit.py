"""Helpers of the tests of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runqy_agent.config import Config, load_config
from runqy_agent.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENOUGH = {"RUNQY_SERVER_URL": "https://runqy.example.com", "RUNQY_API_KEY": "key", "RUNQY_QUEUES": "inference"}
DURATION = "allowed is a duration such as 30s, 1m30s, 500ms, 2h or 0"


class Files:
    """Writes configuration files and loads them, with a server and a queue from the environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str | bytes, name: str = "config.yml") -> Path:
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text: str | bytes, environ: Mapping[str, str] = ENOUGH, **more: Any) -> Config:
        return load_config(self.write(text), environ=environ, **more)

    def problems(self, text: str | bytes, environ: Mapping[str, str] = ENOUGH, **more: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, environ, **more)
        assert caught.value.exit_code == ExitCode.CONFIG
        return [line.replace(f"{self.directory}/", "") for line in caught.value.problems]


def problems(environ: Mapping[str, str] = ENOUGH, **more: Any) -> list[str]:
    """What is wrong with an environment and a command line."""
    with pytest.raises(ConfigError) as caught:
        load_config(environ=environ, **more)
    return caught.value.problems


def without(name: str) -> dict[str, str]:
    """``ENOUGH`` without one of its variables."""
    return {known: value for known, value in ENOUGH.items() if known != name}
