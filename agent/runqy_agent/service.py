"""The worker as a process of its own: signals, logging, exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent._version import __version__
from runqy_agent.child_environment import PROCESS, inherit, secrets_in
from runqy_agent.config.local import listen_address, token_directories
from runqy_agent.config.places import AUTO
from runqy_agent.errors import ExitCode, RunqyAgentError
from runqy_agent.process.descendants import Origin
from runqy_agent.process.inherited import adopt_orphans, open_standard_descriptors, raise_file_limit, reset_signals
from runqy_agent.process.orphans import Orphans
from runqy_agent.redaction import Redactor
from runqy_agent.reporting.logs import configure_logging
from runqy_agent.reporting.status import in_words
from runqy_agent.reporting.status_server import StatusServer
from runqy_agent.reporting.systemd import Systemd
from runqy_agent.spawning import children_name_origin
from runqy_agent.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from runqy_agent.config import Config

log = logging.getLogger(__name__)

UMASK = 0o027
"""What the agent and its children write is for their user and group, whoever has started it with which umask."""


def run_service(config: Config, reread: Callable[[], Config] | None = None) -> int:
    """Run a worker until it is told to stop by SIGTERM or SIGINT.

    Args:
        config: the settings.
        reread: reads them anew, so that a redeployment can tell which have changed.

    Returns:
        The exit code; what went wrong is the last thing in the log.
    """
    replaced, reset = open_standard_descriptors(), reset_signals()
    os.umask(UMASK)
    redactor = Redactor()
    redactor.add([*config.secrets(), *secrets_in(inherit(PROCESS))])
    configure_logging(config.log, redactor)
    log.info("runqy-agent %s", __version__)
    for warning in [*replaced, *config.warnings]:
        log.warning("%s", warning)
    if reset:
        log.info("whoever started the agent had it ignore or block %s: undone", ", ".join(reset))
    worker = config.worker
    raise_file_limit(max(worker.concurrency, worker.processes * len(config.queues())))
    adopt_orphans()
    _use_uvloop()
    try:
        asyncio.run(_serve(config, redactor, reread))
    except RunqyAgentError as error:
        log.critical("%s", error)  # not on standard error past the log: nobody may be reading there
        return error.exit_code
    return ExitCode.DONE


def _use_uvloop() -> None:
    """Run on uvloop where it is installed; it is optional."""
    try:
        import uvloop  # noqa: PLC0415  # an optional dependency
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def _serve(config: Config, redactor: Redactor, reread: Callable[[], Config] | None) -> None:
    worker = Worker(config, redactor=redactor)
    worker.reread = reread
    systemd = Systemd()
    server = StatusServer(
        listen_address(config, os.environ),
        worker.describe,
        worker.output,
        actions={"drain": worker.pause, "resume": partial(worker.pause, paused=False), "redeploy": worker.redeploy},
        optional=config.status.listen == AUTO,
        token_directories=token_directories(config, os.environ),
    )
    stopped = False

    def stop(signum: signal.Signals) -> None:
        nonlocal stopped
        log.info("%s: %s", signum.name, "stopping at once" if stopped else "stopping")
        stopped = True
        systemd.stopping()
        worker.stop()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop, signum)
    loop.add_signal_handler(signal.SIGTSTP, worker.pause)
    loop.add_signal_handler(signal.SIGCONT, partial(worker.pause, paused=False))
    loop.add_signal_handler(signal.SIGHUP, worker.redeploy)
    await server.start()
    origin, orphans = Origin(Path(config.deployment.dir)), Orphans()
    children_name_origin(origin.environment)
    await asyncio.to_thread(origin.end_leftovers)
    collector = asyncio.create_task(orphans.collect(), name="orphans")
    watchdog = asyncio.create_task(systemd.feed_watchdog(worker.hung), name="watchdog")

    def report() -> None:
        status = worker.describe()
        systemd.tell(status["status"], in_words(status))
        systemd.reloading(now=bool(status["redeploy"] and status["redeploy"]["running"]))

    def changed() -> None:
        loop.call_soon(report)  # whoever has changed something must not suffer from what goes wrong here

    worker.on_change = changed
    report()
    try:
        await worker.serve()
    finally:
        systemd.stopping()
        watchdog.cancel()
        collector.cancel()
        await asyncio.to_thread(orphans.end_all)
        await server.stop()
    log.info("stopped")
