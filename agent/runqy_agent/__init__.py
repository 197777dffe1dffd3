"""A worker for the runqy task queue.

As a program: ``runqy-agent run``. As a library::

    from runqy_agent import Worker, load_config

The public API is what is imported here, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
else:
    # Each name is imported when it is first asked for: ``runqy-agent health`` runs often and needs next to nothing.
    _PLACES = {
        "_version": ("__version__",),
        "config": ("Config", "load_config"),
        "errors": (
            "BrokerError",
            "ConfigError",
            "DeploymentError",
            "ExitCode",
            "ProcessNotReadyError",
            "RegistrationError",
            "RunqyAgentError",
        ),
        "handlers": (
            "Handler",
            "Middleware",
            "NoHandlerError",
            "ResultWriter",
            "RevokeTask",
            "ServeMux",
            "SkipRetry",
            "Task",
        ),
        "retry_delays": ("exponential_retry_delay", "fixed_retry_delay", "linear_retry_delay"),
        "worker": ("Worker",),
    }
    _MODULES = {name: module for module, names in _PLACES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
