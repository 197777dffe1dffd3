"""Child commands of a deployment (git, uv, pip, python): the only place here that starts a process.

No shell, stdin from ``/dev/null``, a process group of its own, output kept only at its end, and a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runqy_agent.child_environment import secrets_in
from runqy_agent.deployment.files import advice_on_output
from runqy_agent.spawning import create, wait_out_shortages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runqy_agent.errors import DeploymentError

log = logging.getLogger(__name__)

_KEEP_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_LINES_IN_ERRORS = 12
_LATEST_BYTES = 4096
_TERM_GRACE = 2.0
_KILL_GRACE = 10.0
_WHITE_SPACE = re.compile(rb"\s")
_USERINFO = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")


@dataclass(frozen=True)
class Command:
    """One child command.

    Attributes:
        argv: the program and its arguments. They are visible in ``ps``: never a secret.
        purpose: what it is for, in words, as the beginning of an error: ``fetching https://…``.
        env: its whole environment.
        error: what a failure is raised as.
        seconds: how long it may take.
        cwd: where it runs; the agent's own directory when None.
        secrets: values that are blanked in everything kept of its output, besides passwords in URLs of ``env``.
        keep: bytes kept of the end of stdout and of stderr.
        report_seconds: how often a line of the log says that it still runs, and what it printed last; 0 for never.
    """

    argv: Sequence[str]
    purpose: str
    env: Mapping[str, str] = field(repr=False)
    error: type[DeploymentError]
    seconds: float
    cwd: Path | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    keep: int = _KEEP_BYTES
    report_seconds: float = 0.0

    @property
    def name(self) -> str:
        """The program's name, as people know it."""
        return Path(self.argv[0]).name


async def run(command: Command) -> str:
    """Run a command to its end and return its standard output (its last ``keep`` bytes).

    If this coroutine is cancelled, the command's whole process group is ended first.

    Raises:
        DeploymentError: of the class ``command.error``: it could not be started, ended with another code than 0,
            or took too long. The text names the purpose, the program, the exit code and the last lines of stderr.
    """
    try:
        process = await wait_out_shortages(partial(_start, command), f"{command.purpose}: {command.name}")
    except FileNotFoundError as missing:
        raise command.error(
            f"{command.purpose} failed: {command.argv[0]} was not found; install it and make sure it is on PATH"
        ) from missing
    except OSError as refused:
        raise command.error(
            f"{command.purpose} failed: {command.argv[0]} cannot be started: {refused.strerror}"
        ) from refused
    secrets = (*command.secrets, *secrets_in(command.env))
    latest = bytearray()
    pipes = (process.stdout, process.stderr)
    tails = [asyncio.ensure_future(_tail(pipe, command.keep, secrets, latest)) for pipe in pipes]
    ended = asyncio.ensure_future(process.wait())
    reporting = asyncio.ensure_future(_report(command, latest, secrets))
    try:
        _, unfinished = await asyncio.wait({*tails, ended}, timeout=command.seconds)
        if unfinished:
            why = f"{command.name} was stopped because it took longer than {command.seconds:g} s"
            raise command.error(f"{command.purpose} failed: {why}")
    finally:
        reporting.cancel()
        if not (ended.done() and all(tail.done() for tail in tails)):
            await _end_group(process)
        await _settle(process, [*tails, ended])
    stdout, stderr, code = (*(tail.result() for tail in tails), ended.result())
    out, err = (redact(raw.decode(errors="replace"), secrets) for raw in (stdout, stderr))
    for line in err.splitlines():
        log.debug("%s: %s", command.name, line)
    if code != 0:
        ending = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        raise command.error(
            f"{command.purpose} failed: {command.name} ended with {ending}: "
            f"{last_lines(err or out) or 'no message'}{advice_on_output(err + out)}"
        )
    return out


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without the given secrets and without ``user:password`` in URLs."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, "***")
    return _USERINFO.sub("***", text)


def last_lines(text: str, count: int = _LINES_IN_ERRORS) -> str:
    """The last lines of ``text`` that say anything, joined by line breaks."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-count:])


async def _start(command: Command) -> asyncio.subprocess.Process:
    """Start the command. A cancellation waits until it has started, and then ends its group.

    Left to itself, asyncio would kill the first process alone and then wait for pipes that its children hold open.
    """
    starting = asyncio.ensure_future(
        create(
            command.argv,
            environment=command.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=command.cwd,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            process = starting.result()
            await _end_group(process)
            await _settle(process, [asyncio.ensure_future(process.wait())])
        raise


async def _report(command: Command, latest: bytearray, secrets: Sequence[str]) -> None:
    """Say every few seconds that a command is still at work, and what it has printed last."""
    started = time.monotonic()
    while command.report_seconds:
        await asyncio.sleep(command.report_seconds)
        lines = bytes(latest).splitlines()[1 if len(latest) >= _LATEST_BYTES else 0 :]  # the first may be half a secret
        text = last_lines(redact(b"\n".join(lines).decode(errors="replace"), secrets), 1)
        log.info("%s: %.0f s so far%s", command.purpose, time.monotonic() - started, f"; {text[:200]}" if text else "")


async def _tail(
    stream: asyncio.StreamReader | None, keep: int, secrets: Sequence[str], latest: bytearray | None = None
) -> bytes:
    """The last ``keep`` bytes, or somewhat fewer: they do not begin inside a secret or a URL.

    What is cut in two would not be recognized any more, and its end would stay. So as many bytes more are held as the
    longest secret has, and the cut is moved to where nothing is split.
    """
    encoded = [secret.encode() for secret in secrets if secret]
    margin = max(map(len, encoded), default=0) + 1  # one more, to see whether the cut is between two words
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(_CHUNK_BYTES)):
        kept += chunk
        if latest is not None:
            latest += chunk
            del latest[:-_LATEST_BYTES]
        del kept[: -(keep + margin)]
    if len(kept) <= keep:
        return bytes(kept)
    return _cut(bytes(kept), len(kept) - keep, encoded)


def _cut(output: bytes, at: int, secrets: Sequence[bytes]) -> bytes:
    """``output`` from ``at`` on, or from the first place after it that is inside no secret and inside no word."""
    moved = True
    while moved:
        moved = False
        for secret in secrets:
            found = output.find(secret, max(0, at - len(secret) + 1), at + len(secret) - 1)
            if 0 <= found < at < found + len(secret):
                at, moved = found + len(secret), True
    if not output[at - 1 : at].isspace():  # perhaps inside of user:password@ in a URL
        blank = _WHITE_SPACE.search(output, at)
        at = blank.end() if blank else len(output)
    return output[at:]


async def _settle(process: asyncio.subprocess.Process, waiting: Sequence[asyncio.Future[Any]]) -> None:
    """Leave nothing behind of a command that has ended for which the event loop would complain when it is closed.

    What is in the pipes still is read, so that they close; a process that has left the group may hold them open.
    """
    await asyncio.wait(waiting, timeout=_TERM_GRACE)
    for future in waiting:
        future.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the command and its descendants: SIGTERM, so that git removes its lock files, then SIGKILL."""
    _signal_group(process, signal.SIGTERM)
    waiting = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({waiting}, timeout=_TERM_GRACE)
    finally:  # even when this wait is cancelled too
        _signal_group(process, signal.SIGKILL)
    # Not without end: asyncio also waits for the pipes, which a process that left the group may hold.
    await asyncio.wait({waiting}, timeout=_KILL_GRACE)
    waiting.cancel()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
