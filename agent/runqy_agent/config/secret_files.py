"""Files that hold one secret: an API key, a token, a password. systemd's credentials are such files."""

from __future__ import annotations

from pathlib import Path

from runqy_agent.config.settings import Secret

_MAX_BYTES = 64 * 1024


def read_secret(path: str) -> Secret:
    """Read a secret; one newline at its end is not part of it.

    Raises:
        ValueError: the file cannot be read, is empty, too large, or not UTF-8. The text names it, never its content.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read {path}: {reason}") from None
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_BYTES} bytes, so hardly a secret")
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return Secret(text)
