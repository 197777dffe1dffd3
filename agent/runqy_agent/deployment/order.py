"""One deployment as it was asked for, and what its environment depends on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runqy_agent.deployment.dependencies import Selection, find_dependencies
from runqy_agent.deployment.environment import plan_environment
from runqy_agent.deployment.source import is_full_commit
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runqy_agent.config.settings import DeploymentSettings, Secret
    from runqy_agent.deployment.environment import EnvironmentPlan
    from runqy_agent.deployment.git import Resolved
    from runqy_agent.deployment.interpreter import Interpreter
    from runqy_agent.deployment.releases import StoredRelease
    from runqy_agent.deployment.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """One deployment: the queue, the source, and what both came to today."""

    settings: DeploymentSettings
    queue: str
    source: Source
    resolved: Resolved
    interpreter: Interpreter
    variables: Mapping[str, str] = field(repr=False)
    git_token: Secret | None = None

    @property
    def commit(self) -> str:
        """The commit asked for, in full, if that is known before it is fetched."""
        return self.resolved.commit if is_full_commit(self.resolved.commit) else ""

    def plan(self, code: Path, commit: str) -> EnvironmentPlan:
        """What the environment of this code depends on."""
        settings, source = self.settings, self.source
        chosen = Selection(tuple(settings.extras), tuple(settings.groups), source.requirements_file, self.variables)
        dependencies = find_dependencies(code, source.code_path, self.interpreter.version, chosen)
        if settings.submodules and (code / ".gitmodules").is_file():
            dependencies = replace(dependencies, inputs=dependencies.inputs | {"submodules": "checked out"})
        origin = f"{self.queue} {commit} {source.code_path}"  # as many as there are releases
        return plan_environment(
            settings, self.interpreter, dependencies, origin, commit=commit, variables=self.variables
        )

    def plan_of(self, stored: StoredRelease) -> EnvironmentPlan | None:
        """The plan of a release's environment, if the release is what is asked for and looks sound."""
        record, source = stored.record, self.source
        if (record.git_url, record.code_path) != (source.git_url, source.code_path):
            return None
        if not self.resolved.matches(record.commit):
            return None
        try:
            plan = self.plan(stored.code, record.commit)
        except EnvironmentBuildError as unreadable:  # a new checkout will tell, if it is not the author's doing
            log.info("the release %s is not used: %s", stored.path.name, unreadable)
            return None
        return plan if plan.key == record.environment else None
