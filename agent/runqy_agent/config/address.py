"""Network addresses as Go programs write them: ``host:port``, ``[v6]:port``, or a host alone."""

from __future__ import annotations

import ipaddress

_MAX_PORT = 65535


def parse_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Split an address.

    Args:
        text: for example ``redis.example.com:6379``, ``[::1]:6379``, ``::1`` or ``localhost``.
        default_port: the port of an address that names none; without it a port is required.

    Returns:
        The host, without brackets, and the port.

    Raises:
        ValueError: with what is wrong. The text itself is quoted only as far as it holds no ``@``.
    """
    if "@" in text or "://" in text:
        raise ValueError("found a URL; allowed is host:port")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("found a space or control character; allowed is host:port")
    host, port = _split(text)
    if "/" in host or "[" in host or "]" in host:
        raise ValueError(f'found "{text}"; allowed is host:port, with an IPv6 address in brackets')
    if not host:
        raise ValueError(f'found "{text}", which names no host; allowed is host:port')
    if port is None:
        if default_port is None:
            raise ValueError(f'found "{text}", which names no port; allowed is host:port')
        return host, default_port
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT)) and 0 < int(port) <= _MAX_PORT):
        raise ValueError(f'found the port "{port}"; allowed is a number from 1 to {_MAX_PORT}')
    return host, int(port)


def parse_addresses(text: str, default_port: int | None = None) -> list[tuple[str, int]]:
    """Split a list of addresses, with commas between them. Raises as ``parse_address`` does."""
    return [parse_address(part.strip(), default_port) for part in text.split(",")]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_v6(host) or (rest and not rest.startswith(":")):
            raise ValueError(f'found "{text}"; allowed is [IPv6 address]:port')
        return host, rest[1:] if rest else None
    if _is_v6(text):
        return text, None
    host, colon, port = text.rpartition(":")
    if ":" in host:
        raise ValueError(f'found "{text}"; allowed is host:port, with an IPv6 address in brackets')
    return (host, port) if colon else (text, None)


def _is_v6(host: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv6Address)
    except ValueError:
        return False
