"""Small repositories of task authors, and what pip, uv and Poetry themselves make of them: the expected values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from deployment_kit import Repo, deploy, make_wheel
from runqy_agent.config.settings import DeploymentSettings, GitSettings
from runqy_agent.deployment import Deployer, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runqy_agent.deployment import Release

Packages = frozenset[tuple[str, str]]
"""Installed packages: normalized name and version."""

NOWHERE = "http://127.0.0.1:9/simple/"

# A build backend without requirements of its own, for packages that lie in the repository.
BACKEND = """\
import os, pathlib, re, zipfile

def _project():
    text = pathlib.Path("pyproject.toml").read_text()
    name = re.search('^name = "(.*)"', text, re.M)[1]
    version = re.search('^version = "(.*)"', text, re.M)
    version = version[1] if version else pathlib.Path("VERSION").read_text().strip()
    requires = re.search(r'^dependencies = \\[(.*)\\]', text, re.M)
    requires = re.findall('"(.*?)"', requires[1]) if requires else pathlib.Path("needs.txt").read_text().split()
    extras = re.findall(r'^(\\w+) = \\["(.*)"\\]  # extra', text, re.M)
    lines = [f"Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    for extra, needs in extras:
        lines += [f"Provides-Extra: {extra}", f"Requires-Dist: {needs}; extra == '{extra}'"]
    return name.replace("-", "_"), version, "\\n".join(lines) + "\\n"

def _wheel(directory, editable):
    name, version, metadata = _project()
    info = f"{name}-{version}.dist-info"
    source = pathlib.Path("src" if os.path.isdir("src") else ".").absolute()
    files = {f"{name}.pth": f"{source}\\n"} if editable else {
        str(path.relative_to(source)): path.read_text() for path in source.glob(f"{name}*/**/*.py")
    } | {path.name: path.read_text() for path in source.glob(f"{name}.py")}
    files[f"{info}/METADATA"] = metadata
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    wheel = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{wheel}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"]))
    return wheel

def build_wheel(directory, config_settings=None, metadata_directory=None):
    return _wheel(directory, False)

def build_editable(directory, config_settings=None, metadata_directory=None):
    return _wheel(directory, True)
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def project(name: str, *needs: str, version: str = "1.0", more: str = "") -> str:
    """A pyproject.toml that is not packaged."""
    quoted = ", ".join(f'"{entry}"' for entry in needs)
    head = f'[project]\nname = "{name}"\nversion = "{version}"\nrequires-python = ">=3.10"\n'
    return f"{head}dependencies = [{quoted}]\n{more}"


def package(at: str, name: str, *needs: str, version: str = "1.0", more: str = "") -> dict[str, str]:
    """The files of a package in the directory ``at`` (which ends in ``/``, or is empty)."""
    return {
        f"{at}pyproject.toml": project(name, *needs, version=version, more=f"{more}{BUILD_SYSTEM}"),
        f"{at}backend.py": BACKEND,
        f"{at}{name.replace('-', '_')}.py": f"VERSION = {version!r}\n",
    }


@dataclass(frozen=True)
class Layout:
    """One small repository.

    Attributes:
        name: what it shows.
        files: path → content.
        code_path: the directory that is deployed.
        oracle: who tells what is to be installed: ``pip``, ``uv`` or ``poetry``.
        arguments: of the oracle; by default what its user types.
        where: where the oracle runs, if not in ``code_path``.
        lock: whether ``uv.lock`` or ``poetry.lock`` is made first, in this directory (None: not).
        links: path → target of a symbolic link.
        change: files that, changed like this, change what is installed.
        refused: what is refused here although the oracle accepts it: a pattern of the message.
        imports: modules that the main program imports.
        local: whether code of the repository is installed, so that the environment belongs to the commit.
        requirements_file: as the server names it.
        settings: of the deployment.
    """

    name: str
    files: Mapping[str, str | bytes]
    code_path: str = ""
    oracle: str = "pip"
    arguments: tuple[str, ...] = ()
    where: str | None = None
    lock: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    change: Mapping[str, str | bytes] = field(default_factory=dict)
    refused: str = ""
    imports: tuple[str, ...] = ()
    local: bool = False
    requirements_file: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)


class Workshop:
    """A repository with a layout, the tools beside it, and a deployment directory."""

    def __init__(self, path: Path, index: str, python: Path, layout: Layout) -> None:
        self.path = path
        with urlopen(f"{index}alpha/") as page:  # noqa: S310 - the tests' own index
            self.alpha = page.read().decode().partition("sha256=")[2].partition('"')[0]
        self.index = index
        self.python = python
        self.layout = layout
        self.repo = Repo(path / "repo")
        self._clones = 0

    def fill(self, files: Mapping[str, str | bytes]) -> None:
        """Write the files and commit them, with the lock that belongs to them."""
        layout = self.layout
        for name, content in files.items():
            target = self.repo.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._write(target, content)
        for name, to in layout.links.items():
            link = self.repo.path / name
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(to)
        if layout.lock is not None:
            self._tool(self.repo.path / layout.lock, layout.oracle, "lock")
        self.repo.commit()

    def _write(self, target: Path, content: str | bytes) -> None:
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif content.startswith("@WHEEL@"):
            make_wheel(target.parent, *content.split()[1:])
        else:
            for mark, value in (
                ("@INDEX@", self.index),
                ("@OWN@", self.index.replace("/simple/", "/own/")),
                ("@ALPHA@", self.alpha),
            ):
                content = content.replace(mark, value)
            target.write_text(content, encoding="utf-8", newline="")

    def expected(self) -> Packages | str:
        """What the oracle installs in a fresh clone of the repository, or what it says when it fails."""
        self._clones += 1
        clone = self.path / f"clone-{self._clones}"
        self.repo.git("clone", "--quiet", str(self.repo.path), str(clone))
        where = clone / (self.layout.code_path if self.layout.where is None else self.layout.where)
        try:
            if self.layout.oracle == "pip":
                return self._ask_pip(where)
            environment = self.path / f"oracle-{self._clones}"
            self._synchronize(where, environment)
            return packages_in(environment)
        except subprocess.CalledProcessError as failed:
            return f"{failed.stdout}{failed.stderr}"

    def _ask_pip(self, where: Path) -> Packages:
        asked = self.layout.arguments or ("-r", "requirements.txt")
        options = ("--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check", "--no-input")
        report = self.path / "report.json"
        run([sys.executable, "-m", "pip", "install", *options, "--report", report, *asked], where, self._env())
        content = json.loads(report.read_text(encoding="utf-8"))
        return frozenset(
            (normal(entry["metadata"]["name"]), entry["metadata"]["version"]) for entry in content["install"]
        )

    def _synchronize(self, where: Path, environment: Path) -> None:
        if self.layout.oracle == "uv":
            env = {"UV_PROJECT_ENVIRONMENT": str(environment)}
            argv = ["sync", "--no-default-groups", "--python", str(self.python), *self.layout.arguments]
        else:
            run([self.python, "-m", "venv", "--without-pip", environment], where, self._env())
            env = {"VIRTUAL_ENV": str(environment), "PATH": f"{environment}/bin{os.pathsep}{os.environ['PATH']}"}
            argv = ["install", "--only", "main", *self.layout.arguments]
        self._tool(where, self.layout.oracle, *argv, env=env)

    def _tool(self, where: Path, tool: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        program = Path(sys.executable).with_name("uv") if tool == "uv" else os.environ["TEST_POETRY"]
        more = () if tool == "uv" else ("--no-interaction",)
        run([program, *more, *arguments], where, self._env() | dict(env or {}))

    def _env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PIP_INDEX_URL": self.index,
            "UV_DEFAULT_INDEX": self.index,
            "UV_PYTHON_DOWNLOADS": "never",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "POETRY_CACHE_DIR": str(self.path / "cache"),
        }

    def deploy(self) -> Release:
        """Deploy what the repository holds now."""
        settings = {"use_system_site_packages": False} | dict(self.layout.settings)
        configured = DeploymentSettings(dir=str(self.path / "deployment"), python=str(self.python), **settings)  # type: ignore[arg-type]
        return deploy(
            Deployer(configured, GitSettings()),
            Source(self.repo.url, "main", self.layout.code_path, self.layout.requirements_file),
        )


def packages_in(environment: Path) -> Packages:
    """What is installed in an environment, but for the tools that it was made with."""
    names = (path.name.removesuffix(".dist-info") for path in environment.glob("lib/python*/site-packages/*.dist-info"))
    pairs = (name.rpartition("-")[::2] for name in names)
    return frozenset((normal(name), version) for name, version in pairs if name not in {"pip", "setuptools", "wheel"})


def normal(name: str) -> str:
    """A package's name as indexes write it."""
    return name.replace("_", "-").replace(".", "-").lower()


def run(command: Iterable[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
    """Run a command to its end.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, cwd=cwd, env=env)


def make_wheels(directory: Path) -> None:
    """What the tests' package index has; also foreign packages under names that repositories use for their own."""
    for name in ("alpha", "beta", "gamma", "common", "helper", "inner"):
        for version in ("1.0", "2.0") if name in {"alpha", "beta", "gamma"} else ("66.6",):
            make_wheel(directory, name, version)
    make_wheel(directory / "own", "helper", "5.5")
