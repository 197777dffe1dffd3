"""Every error the agent raises on purpose, and the exit code each one ends in.

    RunqyAgentError                  1  anything else
    ├── ConfigError                  2  a setting is missing or malformed
    ├── RegistrationError            3  the server refused, or could not be reached
    ├── DeploymentError              4  fetching the code or building its environment failed
    │   ├── GitError
    │   └── EnvironmentBuildError
    ├── ProcessNotReadyError         5  the supervised process did not become ready
    ├── BrokerError                  6  Redis is unreachable or refuses, at start
    └── LoopDiedError                1  a part of the running worker ended that should not have

The messages say what was tried, on what, and what to do next. They never hold a secret.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the ``runqy-agent`` command. They are stable."""

    DONE = 0
    OTHER = 1
    CONFIG = 2
    REGISTRATION = 3
    DEPLOYMENT = 4
    PROCESS_NOT_READY = 5
    BROKER = 6


class RunqyAgentError(Exception):
    """The base of all errors of the agent."""

    exit_code: ClassVar[ExitCode] = ExitCode.OTHER

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigError(RunqyAgentError):
    """The configuration is missing something or holds something malformed.

    Attributes:
        problems: one line for each problem found, each with the key's path.
    """

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RegistrationError(RunqyAgentError):
    """The runqy server refused this worker or could not be reached.

    Attributes:
        retryable: whether trying again may help.
    """

    exit_code = ExitCode.REGISTRATION

    def __init__(self, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DeploymentError(RunqyAgentError):
    """The task author's code could not be deployed.

    Attributes:
        commit: which commit was to be deployed; empty if that did not come to light.
    """

    exit_code = ExitCode.DEPLOYMENT
    commit: str = ""


class GitError(DeploymentError):
    """Git could not fetch or check out the code."""


class EnvironmentBuildError(DeploymentError):
    """The virtual environment could not be built."""


class ProcessNotReadyError(RunqyAgentError):
    """The supervised process did not become ready."""

    exit_code = ExitCode.PROCESS_NOT_READY


class BrokerError(RunqyAgentError):
    """Redis cannot be reached, or refuses this worker.

    Attributes:
        retryable: whether trying again may help.
    """

    exit_code = ExitCode.BROKER

    def __init__(self, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class LoopDiedError(RunqyAgentError):
    """A part of the running worker ended that should not have."""
