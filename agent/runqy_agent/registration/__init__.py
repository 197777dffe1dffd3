"""Registration with the runqy server, which says what to deploy and where Redis is."""

from __future__ import annotations

from runqy_agent.registration.answer import (
    Deployment,
    Queue,
    Registration,
    ServerRedis,
    SubQueue,
    read_answer,
)
from runqy_agent.registration.client import register
from runqy_agent.registration.names import parent_of, parents_of
from runqy_agent.registration.routing import Routing, ServedQueue, route

__all__ = [
    "Deployment",
    "Queue",
    "Registration",
    "Routing",
    "ServedQueue",
    "ServerRedis",
    "SubQueue",
    "parent_of",
    "parents_of",
    "read_answer",
    "register",
    "route",
]
