"""Typed settings of the agent: where they come from, what they may be, what is wrong with them."""

from __future__ import annotations

from runqy_agent.config.duration import Duration, format_duration, parse_duration
from runqy_agent.config.loader import load_config
from runqy_agent.config.settings import (
    BootstrapSettings,
    Config,
    DeploymentSettings,
    GitSettings,
    LogSettings,
    OneShotSettings,
    RecoverySettings,
    RedisSettings,
    RetrySettings,
    Secret,
    SentinelSettings,
    ServerSettings,
    StatusSettings,
    WorkerSettings,
)

__all__ = [
    "BootstrapSettings",
    "Config",
    "DeploymentSettings",
    "Duration",
    "GitSettings",
    "LogSettings",
    "OneShotSettings",
    "RecoverySettings",
    "RedisSettings",
    "RetrySettings",
    "Secret",
    "SentinelSettings",
    "ServerSettings",
    "StatusSettings",
    "WorkerSettings",
    "format_duration",
    "load_config",
    "parse_duration",
]
