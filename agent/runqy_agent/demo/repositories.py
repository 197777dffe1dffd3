"""Git repositories made on the spot."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_IDENTITY = {
    "GIT_AUTHOR_NAME": "Task Author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "Task Author",
    "GIT_COMMITTER_EMAIL": "author@example.com",
}


class GitRepository:
    """A repository in a directory, to be fetched over ``file://``."""

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        """Make it, with a first commit on the branch ``main``."""
        self.directory = directory
        directory.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "uploadpack.allowFilter", "true")
        self.commit(files)

    @property
    def url(self) -> str:
        """Its address for ``git fetch``."""
        return self.directory.absolute().as_uri()

    def commit(self, files: Mapping[str, str], message: str = "Change the tasks") -> str:
        """Write files (path to text) and commit them. Returns the commit."""
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        """Run git in it. Returns what it printed."""
        done = subprocess.run(
            ["git", "-C", str(self.directory), *arguments],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull},
        )
        return done.stdout.strip()
