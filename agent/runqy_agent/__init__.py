"""A worker for the runqy task queue.

As a program: ``runqy-agent run``. As a library::

    from runqy_agent import Worker, load_config

The public API is what is imported here, and nothing else.
"""

from __future__ import annotations

from runqy_agent._version import __version__
from runqy_agent.config import Config, load_config
from runqy_agent.errors import (
    BrokerError,
    ConfigError,
    DeploymentError,
    ExitCode,
    ProcessNotReadyError,
    RegistrationError,
    RunqyAgentError,
)
from runqy_agent.handlers import (
    Handler,
    Middleware,
    NoHandlerError,
    ResultWriter,
    RevokeTask,
    ServeMux,
    SkipRetry,
    Task,
)
from runqy_agent.retry_delays import exponential_retry_delay, fixed_retry_delay, linear_retry_delay
from runqy_agent.worker import Worker

__all__ = [
    "BrokerError",
    "Config",
    "ConfigError",
    "DeploymentError",
    "ExitCode",
    "Handler",
    "Middleware",
    "NoHandlerError",
    "ProcessNotReadyError",
    "RegistrationError",
    "ResultWriter",
    "RevokeTask",
    "RunqyAgentError",
    "ServeMux",
    "SkipRetry",
    "Task",
    "Worker",
    "__version__",
    "exponential_retry_delay",
    "fixed_retry_delay",
    "linear_retry_delay",
    "load_config",
]
