"""At start: does Redis answer, let us in, and is it what the configuration says? If not, say what to do about it."""

from __future__ import annotations

import logging
import re
import ssl
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from runqy_agent.broker.cluster import ClusterClient
from runqy_agent.broker.connection import describe
from runqy_agent.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runqy_agent.broker.address import RedisAddress
    from runqy_agent.broker.connection import Client

log = logging.getLogger(__name__)

OLDEST_VERSION = (6, 2)
ACL_HINT = "docs/configuration.md has the line for ACL SETUSER"
MISSING = re.compile(r"unknown (?:redis )?command", re.IGNORECASE)
"""How a server says that it has no command of a name: outside a script, and in one."""
PASSING = (ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
"""Refusals that end when a fail-over does. That a server is loading its data is no ResponseError."""
_TROUBLE = (RedisError, OSError)
_OTHER_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_TLS_WITHOUT_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE")


async def check_server(client: Client, address: RedisAddress) -> None:
    """Make sure that Redis answers, lets us in, is what the configuration says, and is new enough.

    Raises:
        BrokerError: with what was tried, what came of it, and what to do.
    """
    targets: list[dict[str, Any]] = [{}]
    try:
        if isinstance(client, ClusterClient):
            await client.initialize()
            targets = [{"target_nodes": node} for node in client.get_primaries()]
        else:
            await client.execute_command("PING")
    except _TROUBLE as error:
        if not (
            is_missing(error) and "ping" in str(error).lower()
        ):  # what opening a connection needs is another matter
            raise explained(error, address) from error
    if not targets:
        raise BrokerError(f"Redis at {address} has no slots yet: its nodes are not joined to a cluster", retryable=True)
    for target in targets:
        await _check_info(client, address, target)


def is_missing(error: BaseException) -> bool:
    """Whether the server does not have a command, or does not permit it: trying again does not help."""
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and MISSING.search(str(error)) is not None
    )


async def _check_info(client: Client, address: RedisAddress, target: dict[str, Any]) -> None:
    """Check one server; ``target`` names the node of a cluster."""
    try:
        info: dict[str, Any] = await client.info(**target)
    except _TROUBLE as error:
        if is_missing(error):
            log.warning("Redis at %s does not tell its version (%s); it must be 6.2 or newer", address, error)
            if not address.is_cluster:
                await client.connection_pool.disconnect()  # imitations of Redis close a connection after an error
            return
        if address.is_cluster:
            log.warning("Redis at %s: a node cannot be used: %s", address, describe(error))
            return
        raise explained(error, address) from error
    problem = _unsuitable(info, address)
    if problem:
        raise BrokerError(f"Redis at {address} {problem}")


def _unsuitable(info: dict[str, Any], address: RedisAddress) -> str:
    """Why a server with this ``INFO`` cannot serve, or ""."""
    # Valkey 8 and newer: server_mode, and redis_version only for the sake of Redis' clients.
    mode = info.get("redis_mode") or info.get("server_mode")
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_VERSION:
        return f"is version {version}; the agent needs Redis 6.2 or newer, or Valkey"
    if mode == "sentinel":
        return "is a sentinel: name it in redis.sentinel.nodes, and the master in redis.sentinel.master_name"
    if address.is_cluster:
        return ""
    if mode == "cluster":
        return "is a node of a Redis Cluster: set redis.cluster: true"
    if info.get("role") == "slave" and info.get("slave_read_only") == 1:
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        return f"is a read-only replica of {master}: name the master, or its sentinels in redis.sentinel"
    return ""


def explained(error: BaseException, address: RedisAddress) -> BrokerError:
    """What trouble at start means, for people, and whether it may pass."""
    lasts = isinstance(error, ResponseError) and not isinstance(error, PASSING)
    for cause in _causes(error):
        lasts = lasts or isinstance(cause, (AuthenticationError, NoPermissionError))
        lasts = lasts or (isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT_OFF))
    return BrokerError(_explain(error, address), retryable=not lasts)


def _explain(error: BaseException, address: RedisAddress) -> str:
    """What trouble at start means, for people."""
    where, hint = f"Redis at {address}", ""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, AuthenticationError):
            return f"{where} refuses the password or user name: {describe(error)}"
        if isinstance(cause, NoPermissionError):
            return f"{where} does not permit what every connection needs: {describe(error)}; {ACL_HINT}"
        if isinstance(cause, AskError):  # MOVED is one, too
            return f"{where} is a node of a Redis Cluster ({error}): set redis.cluster: true"
        if isinstance(cause, ssl.SSLError):
            hint = _tls_hint(cause, address)
        elif isinstance(cause, ConnectionResetError) and address.tls and not address.cert_file:
            hint = "if it asks for client certificates, set redis.cert_file and redis.key_file"
        elif isinstance(cause, ConnectionResetError) and not address.tls:
            hint = "if it speaks TLS there, set redis.tls: true"
        elif address.is_cluster and "cluster support disabled" in str(cause):
            return f"{where} is no cluster (cluster support is disabled there): leave redis.cluster out"
    return f"{where} cannot be used: {describe(error)}" + (f"; {hint}" if hint else "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tls_hint(error: ssl.SSLError, address: RedisAddress) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return "the certificate is for another name: connect by a name that stands in it"
        authorities = f"redis.ca_file ({address.ca_file})" if address.ca_file else "the authorities of this system"
        return (
            f"its certificate cannot be verified with {authorities}; redis.ca_file names the authority that signed it"
        )
    if error.reason in _TLS_WITHOUT_TLS:
        return "does it speak TLS on that port?"
    if error.library in {"X509", "PEM"}:
        return "redis.ca_file, redis.cert_file or redis.key_file holds no PEM, or the key is not the certificate's"
    return ""
