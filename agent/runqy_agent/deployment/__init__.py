"""Deploying a task author's code: from a Git repository to a release and its virtual environment."""

from __future__ import annotations

from runqy_agent.deployment.bounds import Bounds, NotAllowedError
from runqy_agent.deployment.deployer import Deployer
from runqy_agent.deployment.release import Release
from runqy_agent.deployment.source import Source

__all__ = ["Bounds", "Deployer", "NotAllowedError", "Release", "Source"]
