"""uv and Poetry, where a lock or a Poetry project needs them: each in an environment of its own, built once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runqy_agent.child_environment import BUILD, NO_PROMPTS, inherit
from runqy_agent.deployment.commands import Command, run
from runqy_agent.deployment.dependencies import Dependencies
from runqy_agent.deployment.environment import EnvironmentPlan, build_environment, is_built
from runqy_agent.deployment.files import remove_tree, temporary_sibling
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

_PACKAGES = {
    "uv": ("uv>=0.8,<1",),
    "poetry": ("poetry>=2,<3", "poetry-plugin-export>=1.9,<2"),
    "poetry-core": ("poetry-core>=2,<3",),
}
_OLDEST_UV = (0, 8)
_OLDEST_FOR_POETRY = (3, 9)
_SECONDS = 300.0
_VERSION_SECONDS = 30.0
_NAME_LENGTH = 12
_INDEX_OPTIONS = ("--index-url", "--extra-index-url")

# Asks Poetry's own library, since its constraints (^3.10, ~1.2) and its ways to write dependencies are its own.
_DESCRIBE = """\
import json, sys
from pathlib import Path
from poetry.core.constraints.version import Version
from poetry.core.factory import Factory
try:
    package = Factory().create_poetry(Path.cwd()).package
except (RuntimeError, ValueError) as error:
    sys.exit(str(error))
print(json.dumps({
    "python": str(package.python_constraint),
    "allowed": package.python_constraint.allows(Version.parse(sys.argv[1])),
    "packages": [entry.to_pep_508() for entry in package.requires if not entry.is_optional()],
}))
"""


class _Described(msgspec.Struct, frozen=True):
    """What Poetry's library says about a project."""

    python: str
    allowed: bool
    packages: list[str]


class Tools:
    """The tools of a deployment directory. Needs its lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def packages(self, plan: EnvironmentPlan) -> Sequence[str]:
        """What is to be installed, as lines of a requirements file, where a list or a lock says so.

        Raises:
            EnvironmentBuildError: the lock does not fit, the project asks for another Python, or the tool cannot be
                obtained.
        """
        dependencies = plan.dependencies
        if dependencies.kind == "uv":
            lines: Sequence[str] = await self._export_with_uv(plan)
        elif dependencies.kind == "poetry-lock":
            lines = await self._export_with_poetry(plan)
        elif dependencies.kind == "poetry":
            core = await self.obtain("poetry-core", plan)
            lines = (await self._describe(core, plan)).packages
        else:
            lines = dependencies.packages
        if plan.offline:
            return [line for line in lines if not line.startswith(_INDEX_OPTIONS)]
        return [*(_as_option(index) for index in dependencies.indexes), *lines]

    async def obtain(self, name: str, plan: EnvironmentPlan) -> Path:
        """The environment of a tool (``uv``, ``poetry`` or ``poetry-core``), built unless it is there.

        It is made with the interpreter of the task code, and serves all environments made with that one.

        Raises:
            EnvironmentBuildError: it cannot be installed, or does not run on that interpreter.
        """
        packages = _PACKAGES[name]
        interpreter = plan.interpreter
        if name != "uv" and interpreter.version < _OLDEST_FOR_POETRY:
            raise EnvironmentBuildError(
                f"Poetry needs Python 3.9 or newer, and the interpreter is {interpreter.version_text}: set "
                "deployment.python to another one, or add a requirements.txt (poetry export -o requirements.txt)"
            )
        key = hashlib.sha256(json.dumps([interpreter.identity, packages]).encode()).hexdigest()
        path = self._directory / f"{name}-{key[:_NAME_LENGTH]}"
        if is_built(path):
            return path
        for older in self._directory.glob(f"{name}-" + "?" * _NAME_LENGTH):
            if not is_built(older):  # as when its interpreter was removed
                await asyncio.to_thread(remove_tree, older)
        log.info("installing %s, which the project needs, into %s", packages[0], path)
        wanted = Dependencies("pyproject", self._directory, packages=packages)
        tool_plan = EnvironmentPlan(
            interpreter,
            wanted,
            origin="",
            system_site_packages=False,
            offline=plan.offline,
            find_links=plan.find_links,
        )
        try:
            await build_environment(tool_plan, path, packages)
        except EnvironmentBuildError as failed:
            raise EnvironmentBuildError(
                f"{packages[0]} is needed to read the project's dependencies and cannot be installed "
                f"(offline, deployment.find_links must have it; or add a requirements.txt): {failed}"
            ) from failed
        return path

    async def _export_with_uv(self, plan: EnvironmentPlan) -> list[str]:
        uv = await self._uv_on_path()
        if uv is None:
            uv = str(await self.obtain("uv", plan) / "bin" / "uv")
        argv = [uv, "export", "--frozen", "--no-emit-project", "--no-default-groups", "--no-header", "--no-annotate"]
        argv += ["--quiet", "--no-cache", "--format", "requirements-txt", "--python", plan.interpreter.executable]
        argv += [] if plan.dependencies.hashed else ["--no-hashes"]
        env = {"UV_PYTHON_DOWNLOADS": "never"} | ({"UV_OFFLINE": "1"} if plan.offline else {})
        return await self._export([*argv, "--output-file"], "reading uv.lock", plan, env)

    async def _export_with_poetry(self, plan: EnvironmentPlan) -> list[str]:
        tool = await self.obtain("poetry", plan)
        await self._describe(tool, plan)
        argv = [str(tool / "bin" / "poetry"), "export", "--no-interaction", "--no-ansi", "--only", "main"]
        argv += [] if plan.dependencies.hashed else ["--without-hashes"]
        env = {
            "POETRY_CACHE_DIR": str(tool / "cache"),
            "POETRY_CONFIG_DIR": str(tool / "config"),
            "POETRY_VIRTUALENVS_CREATE": "false",
        }
        return await self._export([*argv, "--output"], "reading poetry.lock", plan, env)

    async def _export(
        self, argv: Sequence[str], purpose: str, plan: EnvironmentPlan, env: Mapping[str, str]
    ) -> list[str]:
        """Run an export into a file: a long lock must not be kept at its end only."""
        self._directory.mkdir(parents=True, exist_ok=True)
        exported = temporary_sibling(self._directory / "any")
        try:
            await self._run([*argv, str(exported)], purpose, plan.dependencies.directory, env)
            return exported.read_text(encoding="utf-8").splitlines()
        finally:
            exported.unlink(missing_ok=True)

    async def _describe(self, tool: Path, plan: EnvironmentPlan) -> _Described:
        """Let Poetry's library read the project, and check that it allows the interpreter."""
        argv = [str(tool / "bin" / "python"), "-I", "-c", _DESCRIBE, plan.interpreter.version_text]
        described = msgspec.json.decode(
            await self._run(argv, "reading the Poetry project", plan.dependencies.directory, {}), type=_Described
        )
        if not described.allowed:
            raise EnvironmentBuildError(
                f"pyproject.toml requires Python {described.python}, but the interpreter is "
                f"{plan.interpreter.version_text}: set deployment.python to another one"
            )
        return described

    async def _uv_on_path(self) -> str | None:
        """Uv on PATH, unless it is too old to know the options."""
        found = shutil.which("uv")
        if found is None:
            return None
        answer = await self._run([found, "--version"], "asking uv for its version", Path.cwd(), {}, _VERSION_SECONDS)
        version = re.search(r"(\d+)\.(\d+)", answer)
        if version and (int(version[1]), int(version[2])) >= _OLDEST_UV:
            return found
        log.info("%s is too old to read a uv.lock here (%s); another one is installed", found, answer.strip())
        return None

    async def _run(
        self, argv: Sequence[str], purpose: str, cwd: Path, env: Mapping[str, str], seconds: float = _SECONDS
    ) -> str:
        whole = {**inherit(BUILD), **NO_PROMPTS, **env}
        return await run(Command(argv, purpose, whole, EnvironmentBuildError, seconds=seconds, cwd=cwd))


def _as_option(index: str) -> str:
    return f"--extra-index-url {index}" if "://" in index else f"--find-links {index}"
