"""What the deployment tests build on: small repositories, wheels made by hand, a deployment directory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from runqy_agent.config.settings import DeploymentSettings, GitSettings, Secret
from runqy_agent.deployment import Deployer, Release, Source

if TYPE_CHECKING:
    from pathlib import Path

_IDENTITY = {
    "GIT_AUTHOR_NAME": "Author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "Author",
    "GIT_COMMITTER_EMAIL": "author@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


QUEUE = "inference"
REQUIREMENTS = "tinypkg==1.0\n"


class Repo:
    """A Git repository of a task author."""

    def __init__(self, path: Path, *, allow_filter: bool = True) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "uploadpack.allowFilter", str(allow_filter).lower())

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **_IDENTITY})
        return done.stdout.strip()

    def write(self, **files: str) -> None:
        """Write files; in the keywords ``__`` stands for ``/`` and a single ``_dot_`` for a dot."""
        for name, content in files.items():
            self.put(name.replace("__", "/").replace("_dot_", "."), content)

    def put(self, name: str, content: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def commit(self, **files: str) -> str:
        self.write(**files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "A change")
        return self.git("rev-parse", "HEAD")


def make_wheel(directory: Path, name: str, version: str = "1.0", requires: str = "") -> Path:
    """A wheel of one module ``name`` with ``VERSION`` in it."""
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def spy_on(program: str, directory: Path) -> tuple[Path, Path]:
    """A wrapper of ``program`` in ``directory/bin`` that notes its arguments; returns that directory and the notes."""
    real = shutil.which(program)
    bindir, notes = directory / "bin", directory / f"{program}.calls"
    bindir.mkdir(parents=True, exist_ok=True)
    notes.touch()
    wrapper = bindir / program
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{notes}"\nexec "{real}" "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    return bindir, notes


async def deploying(deployer: Deployer, source: Source, queue: str = QUEUE, git_token: Secret | None = None) -> Release:
    """Deploy as a worker whose process becomes ready at once does."""
    release = await deployer.prepare(queue, source, git_token=git_token)
    await deployer.activate(release)
    return release


def deploy(deployer: Deployer, source: Source, queue: str = QUEUE, git_token: Secret | None = None) -> Release:
    """The blocking form of ``deploying``."""
    return asyncio.run(deploying(deployer, source, queue, git_token))


class Bench:
    """A repository, a directory of wheels and a deployment directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / "deployment"
        self.wheels = path / "wheels"
        self.repo = Repo(path / "repo")
        make_wheel(self.wheels, "tinypkg", "1.0")
        make_wheel(self.wheels, "tinypkg", "2.0")

    def deployer(self, *, keep: int = 3, system_site_packages: bool = False, python: str = sys.executable) -> Deployer:
        settings = DeploymentSettings(
            dir=str(self.home),
            python=python,
            offline=True,
            find_links=[str(self.wheels)],
            keep_releases=keep,
            use_system_site_packages=system_site_packages,
        )
        return Deployer(settings, GitSettings())

    def deploy(self, branch: str = "main", code_path: str = "", *, queue: str = QUEUE, keep: int = 3) -> Release:
        return deploy(self.deployer(keep=keep), Source(self.repo.url, branch, code_path), queue)

    def names(self, directory: str) -> list[str]:
        return sorted(path.name for path in (self.home / directory).glob("*"))


def version_in(release: Release) -> str:
    command = [str(release.python), "-c", "import tinypkg; print(tinypkg.VERSION)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def files_below(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*") if not found.is_dir()}
