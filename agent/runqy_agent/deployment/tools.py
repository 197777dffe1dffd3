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
from packaging.utils import canonicalize_name

from runqy_agent.child_environment import BUILD, NO_PROMPTS, inherit
from runqy_agent.deployment.commands import Command, run
from runqy_agent.deployment.environment import EnvironmentPlan, build_environment, is_built
from runqy_agent.deployment.files import remove_tree, temporary_sibling
from runqy_agent.deployment.recipe import Recipe, Step
from runqy_agent.deployment.requirement_lines import logical_lines, parse_line
from runqy_agent.deployment.wanted import Dependencies
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
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*===?\s*(?P<version>[^\s;]+)")

# Asks Poetry's own library, since its constraints (^3.10, ~1.2) and its ways to write dependencies are its own.
_DESCRIBE = """\
import json, sys
from pathlib import Path
from poetry.core.constraints.version import Version
from poetry.core.factory import Factory
try:
    package = Factory().create_poetry(Path.cwd()).package
    extras = {str(name): entries for name, entries in package.extras.items()}
    groups = package.dependency_group_names(True)
    for kind, chosen, known in (("extra", sys.argv[2], extras), ("group", sys.argv[3], groups)):
        for name in json.loads(chosen):
            if name not in known:
                raise ValueError(f"pyproject.toml has no {kind} {name} (it has {', '.join(sorted(known)) or 'none'})")
    packages = [entry for entry in package.requires if not entry.is_optional()]
    packages += [entry for name in json.loads(sys.argv[2]) for entry in extras[name]]
    packages += [entry for name in json.loads(sys.argv[3]) for entry in package.dependency_group(name).dependencies]
except (RuntimeError, ValueError) as error:
    sys.exit(str(error))
print(json.dumps({
    "python": str(package.python_constraint),
    "allowed": package.python_constraint.allows(Version.parse(sys.argv[1])),
    "packages": [entry.to_pep_508(with_extras=False) for entry in packages],
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

    async def recipe(self, plan: EnvironmentPlan) -> Recipe:
        """How to install what is wanted: what a list, a lock or a project says, in steps.

        Raises:
            EnvironmentBuildError: the lock does not fit, the project asks for another Python, or the tool cannot be
                obtained.
        """
        wanted = plan.dependencies
        if wanted.kind == "uv":
            return Recipe(_by_index(await self._export_with_uv(plan), wanted))
        if wanted.kind == "poetry-lock":
            own = (Step(("-e", "."), no_deps=True),) if wanted.packaged else ()
            return Recipe((*_by_index(await self._export_with_poetry(plan), wanted), *own))
        if wanted.kind == "poetry":
            core = await self.obtain("poetry-core", plan)
            lines = [*(await self._describe(core, plan)).packages, *(["-e ."] if wanted.packaged else [])]
            return Recipe((Step(lines=(*(() if plan.offline else wanted.packages), *lines)),) if lines else ())
        uv = await self._uv(plan) if wanted.needs_uv else ""
        extras = f"[{','.join(wanted.selection.extras)}]" if wanted.selection.extras else ""
        if wanted.kind == "project":
            target = ("-e", f".{extras}") if uv else (f".{extras}",)
            groups = (Step(lines=wanted.packages),) if wanted.packages and not uv else ()
            return Recipe((*groups, Step((*target, *_groups(wanted, uv)))), uv)
        if wanted.kind == "pyproject" and uv:
            chosen = [argument for extra in wanted.selection.extras for argument in ("--extra", extra)]
            return Recipe((Step(("-r", "pyproject.toml", *chosen, *_groups(wanted, uv))),), uv)
        if wanted.empty:
            return Recipe((), uv)
        file = "" if uv else wanted.requirements_file
        return Recipe((Step(lines=wanted.packages, constraints=wanted.constraints, file=file),), uv)

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
            await build_environment(tool_plan, path, Recipe((Step(lines=packages),)))
        except EnvironmentBuildError as failed:
            raise EnvironmentBuildError(
                f"{packages[0]} is needed to read the project's dependencies and cannot be installed "
                f"(offline, deployment.find_links must have it; or add a requirements.txt): {failed}"
            ) from failed
        return path

    async def _uv(self, plan: EnvironmentPlan) -> str:
        return await self._uv_on_path() or str(await self.obtain("uv", plan) / "bin" / "uv")

    async def _export_with_uv(self, plan: EnvironmentPlan) -> str:
        wanted = plan.dependencies
        argv = [await self._uv(plan), "export", "--frozen", "--no-default-groups", "--no-header", "--no-annotate"]
        argv += ["--quiet", "--no-cache", "--format", "requirements-txt", "--python", plan.interpreter.executable]
        argv += ["--package", wanted.member] if wanted.member else []
        argv += [argument for extra in wanted.selection.extras for argument in ("--extra", extra)]
        argv += [argument for group in wanted.selection.groups for argument in ("--group", group)]
        env = {"UV_PYTHON_DOWNLOADS": "never"} | ({"UV_OFFLINE": "1"} if plan.offline else {})
        return await self._export([*argv, "--output-file"], "reading uv.lock", plan, env)

    async def _export_with_poetry(self, plan: EnvironmentPlan) -> str:
        tool = await self.obtain("poetry", plan)
        await self._describe(tool, plan)
        argv = [str(tool / "bin" / "poetry"), "export", "--no-interaction", "--no-ansi", "--only", "main"]
        argv += [argument for extra in plan.dependencies.selection.extras for argument in ("--extras", extra)]
        groups = ",".join(("main", *plan.dependencies.selection.groups))
        argv[argv.index("main")] = groups
        env = {
            "POETRY_CACHE_DIR": str(tool / "cache"),
            "POETRY_CONFIG_DIR": str(tool / "config"),
            "POETRY_VIRTUALENVS_CREATE": "false",
        }
        return await self._export([*argv, "--output"], "reading poetry.lock", plan, env)

    async def _export(self, argv: Sequence[str], purpose: str, plan: EnvironmentPlan, env: Mapping[str, str]) -> str:
        """Run an export into a file: a long lock must not be kept at its end only."""
        self._directory.mkdir(parents=True, exist_ok=True)
        exported = temporary_sibling(self._directory / "any")
        try:
            await self._run([*argv, str(exported)], purpose, plan.dependencies.directory, env)
            return exported.read_text(encoding="utf-8")
        finally:
            exported.unlink(missing_ok=True)

    async def _describe(self, tool: Path, plan: EnvironmentPlan) -> _Described:
        """Let Poetry's library read the project, and check that it allows the interpreter."""
        chosen = plan.dependencies.selection
        argv = [str(tool / "bin" / "python"), "-I", "-c", _DESCRIBE, plan.interpreter.version_text]
        argv += [json.dumps(chosen.extras), json.dumps(chosen.groups)]
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


def _by_index(exported: str, wanted: Dependencies) -> tuple[Step, ...]:
    """What a lock says, apart by where it comes from: no package is ever looked for in another's index.

    What has no hash goes apart as well, since pip checks none if not all have one.
    """
    lines: dict[tuple[str, bool], list[str]] = {}
    for number, text in logical_lines(exported):
        line = parse_line(number, text)
        if not line.installs:
            continue  # Poetry names its indexes
        pinned = _PINNED.match(line.requirement)
        index = wanted.indexes.get((canonicalize_name(pinned["name"]), pinned["version"]), "") if pinned else ""
        lines.setdefault((index, bool(line.options.hashes)), []).append(text)
    return tuple(Step(lines=tuple(each), index=index, no_deps=True) for (index, _), each in lines.items())


def _groups(wanted: Dependencies, uv: str) -> list[str]:
    """Arguments for the groups of a project; pip is given their requirements instead."""
    return [argument for group in wanted.selection.groups for argument in ("--group", group)] if uv else []
