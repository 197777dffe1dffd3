"""Virtual environments: named by what they depend on, built once, used by every release that needs the same."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent.child_environment import BUILD, NO_PROMPTS, SHORTEST_SECRET, inherit
from runqy_agent.deployment.commands import Command, run
from runqy_agent.deployment.files import advice_on_space, flush, free_name, generation, remove_tree, write_atomically
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from runqy_agent.config.settings import DeploymentSettings
    from runqy_agent.deployment.interpreter import Interpreter
    from runqy_agent.deployment.recipe import Recipe, Step
    from runqy_agent.deployment.wanted import Dependencies

log = logging.getLogger(__name__)

_MARKER = ".complete"
NAME_LENGTH = 20
_CREATE_SECONDS = 600.0
_SMALLEST_BYTES = 32 * 1024 * 1024  # what an environment takes with nothing but pip in it, and a little more
_REPORT_SECONDS = 5.0
_INSTALL_SECONDS = 2 * 3600.0
_VERSION_VARIABLES = (
    *("SETUPTOOLS_SCM_PRETEND_VERSION", "PBR_VERSION", "PDM_BUILD_SCM_VERSION"),
    *("POETRY_DYNAMIC_VERSIONING_BYPASS", "UV_DYNAMIC_VERSIONING_BYPASS"),
)
_INDEXES = frozenset(  # with which the host says where packages come from
    {
        *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"),
        *("UV_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"),
    }
)
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--progress-bar=off")


@dataclass(frozen=True)
class EnvironmentPlan:
    """An environment as it should be.

    Attributes:
        interpreter: the Python it is made with.
        dependencies: what is installed.
        origin: for dependencies that are code of the repository: what tells that code apart (queue and commit).
        system_site_packages: whether the interpreter's own packages are seen.
        offline: whether no package index may be asked.
        find_links: where wheels are looked for; directories are absolute.
        commit: of the repository.
        variables: what builds find in their environment besides.
    """

    interpreter: Interpreter
    dependencies: Dependencies
    origin: str
    system_site_packages: bool
    offline: bool
    find_links: tuple[str, ...]
    commit: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def version_variables(self) -> dict[str, str]:
        """What builds need that ask Git for their version: a release has no history, only its commit."""
        if not (self.dependencies.local and self.commit):
            return {}
        return dict.fromkeys(_VERSION_VARIABLES, f"0.0+g{self.commit[:12]}")

    @property
    def key(self) -> str:
        """A hash of everything the environment depends on: 64 hexadecimal digits."""
        parts = {
            "interpreter": self.interpreter.identity,
            "kind": self.dependencies.kind,
            "inputs": self.dependencies.inputs,
            "selection": [self.dependencies.selection.extras, self.dependencies.selection.groups],
            # What is built here may depend on any variable; requirements alone, on those they name.
            "origin": [self.origin, sorted(self.variables.items())] if self.dependencies.local else "",
            "system_site_packages": self.system_site_packages,
            "offline": self.offline,
            "find_links": self.find_links,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plan_environment(
    settings: DeploymentSettings,
    interpreter: Interpreter,
    dependencies: Dependencies,
    origin: str,
    *,
    commit: str = "",
    variables: Mapping[str, str] | None = None,
) -> EnvironmentPlan:
    """Put together what an environment depends on."""
    links = (link if "://" in link else str(Path(link).expanduser().resolve()) for link in settings.find_links)
    return EnvironmentPlan(
        interpreter,
        dependencies,
        origin,
        system_site_packages=settings.use_system_site_packages,
        offline=settings.offline,
        find_links=tuple(links),
        commit=commit,
        variables=variables or {},
    )


def is_built(path: Path) -> bool:
    """Whether the environment at ``path`` was built to its end and its interpreter is still there."""
    return (path / _MARKER).is_file() and (path / "bin" / "python").exists()


async def build_environment(plan: EnvironmentPlan, path: Path, recipe: Recipe) -> None:
    """Build an environment at ``path``. What an interrupted build left there is removed first. Needs the lock.

    Args:
        plan: what it is made of.
        path: where.
        recipe: how it is filled.

    Raises:
        EnvironmentBuildError: it could not be created, or a package not be installed.
    """
    await asyncio.to_thread(remove_tree, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    log.info("building the environment %s with Python %s", path.name, plan.interpreter.version_text)
    builder = _Builder(plan, path, recipe)
    await builder.create()
    await builder.install()
    await asyncio.to_thread(_mark_complete, path, plan)


class EnvironmentStore:
    """The environments of a deployment directory. Changes need its lock; looking does not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where the environment of this name is, or would be."""
        return self.directory / name

    def name_for(self, key: str) -> str:
        """The name of the newest usable environment with this key; if there is none, the name for a new one."""
        found = [name for name in self._names(key) if self.is_usable(name)]
        return found[-1] if found else key[:NAME_LENGTH]

    def new_name(self, key: str) -> str:
        """A name for an environment with this key that no environment has."""
        names = self._names(key)
        return free_name(key[:NAME_LENGTH], names)

    def is_usable(self, name: str) -> bool:
        """Whether the environment was built to its end and its interpreter is still there."""
        return bool(name) and is_built(self.path(name))

    def _names(self, key: str) -> list[str]:
        """The names of the environments with this key, the newest last."""
        base = key[:NAME_LENGTH]
        return sorted((path.name for path in self.directory.glob(f"{base}*")), key=generation)

    def remove_interrupted(self, in_use: Callable[[], Collection[str]]) -> None:
        """Remove environments that were not built to their end. Of the names in use, somebody has lost the mark."""
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            if not (path / _MARKER).is_file() and path.name not in in_use():
                log.info("removing the environment %s, which was not built to its end", path.name)
                remove_tree(path)

    def prune(self, needed: Collection[str]) -> None:
        """Remove all environments but those whose names begin with one of these."""
        kept = tuple(needed)
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            if not path.name.startswith(kept):
                log.info("removing the environment %s, which no release needs any more", path.name)
                remove_tree(path)


class _Builder:
    """Builds one environment in its place (environments cannot be moved), with uv where that is right.

    uv does not look at the packages of the system site, and would download a preinstalled PyTorch once more. So with
    system site packages, pip installs.
    """

    def __init__(self, plan: EnvironmentPlan, path: Path, recipe: Recipe) -> None:
        self._plan = plan
        self._path = path
        self._recipe = recipe
        self._uv = recipe.uv or shutil.which("uv")
        self._env = {**plan.version_variables, **inherit(BUILD), **plan.variables, **NO_PROMPTS}
        self._env |= {"PIP_USER": "0", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        if plan.offline:
            self._env |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}

    @property
    def _needs_pip(self) -> bool:
        plan = self._plan
        return (
            bool(self._recipe.steps)
            and not self._recipe.uv
            and (self._uv is None or plan.system_site_packages or plan.dependencies.only_pip)
        )

    async def create(self) -> None:
        """Create the environment, with pip in it only if pip will be used."""
        if self._uv is not None:
            seeded = self._needs_pip
            if not (seeded and self._plan.offline and self._plan.interpreter.ensurepip):
                try:
                    await self._create_with_uv(self._uv, seeded=seeded)
                except EnvironmentBuildError as failed:
                    if not (seeded and self._plan.interpreter.ensurepip):
                        raise
                    log.warning("uv could not put pip into the environment; using venv instead: %s", failed)
                    await asyncio.to_thread(remove_tree, self._path)
                else:
                    return
        await self._create_with_venv()

    async def install(self) -> None:
        """Install the dependencies."""
        for step in self._recipe.steps:
            await self._install(step)

    async def _install(self, step: Step) -> None:
        plan, python = self._plan, str(self._path / "bin" / "python")
        if self._needs_pip:
            argv = [python, "-m", "pip", "install", *_PIP_OPTIONS]
        else:
            argv = [str(self._uv), "pip", "install", "--python", python]
            argv += ["--no-index"] if plan.offline else []
        for link in plan.find_links:
            argv += ["--find-links", link]
        env = self._env
        if step.index and not plan.offline:
            env = {name: value for name, value in env.items() if name not in _INDEXES}
            url = ["--index-url", step.index] if "://" in step.index else ["--no-index", "--find-links", step.index]
            argv += url if self._needs_pip else [*url, "--no-config"]
        argv += ["--no-deps"] if step.no_deps else []
        argv += step.arguments
        if step.file and self._needs_pip:
            argv += ["-r", step.file]
        elif step.lines or not step.arguments:
            argv += ["-r", self._write("requirements.txt", step.lines)]
            argv += ["-c", self._write("constraints.txt", step.constraints)] if step.constraints else []
        await self._run(argv, "installing the dependencies", _INSTALL_SECONDS, plan.dependencies.directory, env)

    def _write(self, name: str, lines: Sequence[str]) -> str:
        path = self._path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    async def _create_with_uv(self, uv: str, *, seeded: bool) -> None:
        argv = [uv, "venv", "--no-project", "--python", self._plan.interpreter.executable]
        argv += ["--system-site-packages"] if self._plan.system_site_packages else []
        argv += ["--seed"] if seeded else []
        await self._run([*argv, str(self._path)], "creating the environment", _CREATE_SECONDS, self._path.parent)

    async def _create_with_venv(self) -> None:
        interpreter = self._plan.interpreter
        if self._needs_pip and not interpreter.ensurepip:
            major, minor, _ = interpreter.version
            raise EnvironmentBuildError(
                f"{interpreter.executable} cannot create virtual environments, since it has no ensurepip: run "
                f"`apt-get install python3-venv` (or python{major}.{minor}-venv), or install uv"
            )
        argv = [interpreter.executable, "-m", "venv"]
        argv += ["--system-site-packages"] if self._plan.system_site_packages else []
        argv += [] if self._needs_pip else ["--without-pip"]
        try:
            await self._run([*argv, str(self._path)], "creating the environment", _CREATE_SECONDS, self._path.parent)
        except EnvironmentBuildError as failed:  # venv keeps to itself what pip says
            raise EnvironmentBuildError(f"{failed}{advice_on_space(self._path.parent, _SMALLEST_BYTES)}") from failed

    async def _run(
        self, argv: list[str], purpose: str, seconds: float, cwd: Path, env: dict[str, str] | None = None
    ) -> None:
        name = self._path.name
        out = await run(
            Command(
                argv,
                purpose=f"{purpose} ({name})",
                env=env or self._env,
                error=EnvironmentBuildError,
                seconds=seconds,
                cwd=cwd,
                secrets=tuple(value for value in self._plan.variables.values() if len(value) >= SHORTEST_SECRET),
                report_seconds=_REPORT_SECONDS,
            )
        )
        for line in out.splitlines():
            log.debug("%s: %s", name, line)


def _mark_complete(path: Path, plan: EnvironmentPlan) -> None:
    flush(path)
    marker = {
        "interpreter": plan.interpreter.identity,
        "kind": plan.dependencies.kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_atomically(path / _MARKER, json.dumps(marker).encode())
