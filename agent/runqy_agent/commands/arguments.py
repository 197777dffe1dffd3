"""The arguments of the commands in this package, and what is done with them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runqy_agent.config.duration import parse_duration
from runqy_agent.config.local import LocalSettings
from runqy_agent.errors import ConfigError, ExitCode
from runqy_agent.escaping import escape, escape_lines, to_json
from runqy_agent.health import NOT_READY_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runqy_agent.commands.endpoint import Endpoint
    from runqy_agent.commands.look import Watcher
    from runqy_agent.commands.units import Unit

COMMANDS = {
    "status": "show the worker of this host, or all workers in Redis",
    "health": "say whether the worker is healthy: exit code 0, or 1",
    "drain": "let the worker finish its tasks and take no new ones",
    "redeploy": "let the worker go over to new code",
    "logs": "show what the processes of the task authors have printed last",
    "heal": "restart the worker if it is unhealthy, at most so often an hour",
}
_RECORDS = "/var/lib/runqy-agent-heal"


def add_commands(commands: Any, add_sources: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the parsers of the commands.

    Args:
        commands: where subparsers are added.
        add_sources: adds the options that say where settings come from.
    """
    for name, purpose in COMMANDS.items():
        parser = commands.add_parser(name, help=purpose, allow_abbrev=False)
        add_sources(parser)
        parser.add_argument("--address", metavar="ADDRESS", default="", help="the worker's status.listen, instead")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "status":
            parser.add_argument("--fleet", action="store_true", help="all workers, as Redis knows them")
        if name == "drain":
            _duration(parser, "--wait", 60.0, "how long to wait until no task is running")
            parser.add_argument("--undo", action="store_true", help="take tasks again")
        if name == "redeploy":
            _duration(parser, "--wait", 600.0, "how long to wait until that is done; 0s: not at all")
        if name == "logs":
            _add_showing(parser)
        if name not in {"status", "logs"}:
            acts = name in {"drain", "redeploy"}
            text = "the worker must be the main process of this unit" if acts else "ask systemd about this unit too"
            parser.add_argument("--unit", default="", required=name == "heal", help=text)
            parser.add_argument("--user", action="store_true", help="the unit is one of systemd --user")
        if name in {"health", "heal"}:
            _duration(parser, "--not-ready-after", NOT_READY_AFTER, "how long it may be up without being ready")
        if name == "health":
            _add_waiting(parser)
        if name == "heal":
            _add_healing(parser)


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    _duration(parser, "--wait", None, "wait so long until it is healthy and stays so")
    parser.add_argument(
        "--samples", type=_positive, default=3, metavar="N", help="found healthy so many times in a row (3)"
    )
    _duration(parser, "--interval", 2.0, "between two looks at a healthy worker")
    parser.add_argument("--other-than", default="", metavar="WORKER_ID", help="the worker must be another than this")
    parser.add_argument("--expect-version", default="", metavar="VERSION", help="the worker must have this version")


def _add_showing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=_positive, default=100, metavar="N", help="so many of the newest (100)")
    parser.add_argument("--follow", action="store_true", help="go on with those to come, until Ctrl-C")
    parser.add_argument("--queue", default="", help="only of this parent queue")


def _add_healing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-per-hour", type=_count, default=3, metavar="N", help="restarts within an hour (3)")
    parser.add_argument("--records", type=Path, default=_RECORDS, metavar="DIRECTORY", help="where they are recorded")
    _duration(parser, "--verify", 60.0, "how long a restarted worker may take to become healthy")
    parser.add_argument("--log-lines", type=_count, default=30, metavar="N", help="lines of the log on failure (30)")
    parser.add_argument("--trigger", default="command", help="who asks, for the record")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _duration(parser: argparse.ArgumentParser, name: str, default: float | None, text: str) -> None:
    shown = f" ({default:g}s)" if default is not None else ""
    parser.add_argument(name, type=_parse_duration, default=default, metavar="DURATION", help=text + shown)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("expected a whole number")
    return int(text)


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _parse_duration(text: str) -> float:
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def execute(command: str, arguments: argparse.Namespace, path: str | None, overrides: Mapping[str, str]) -> int:
    """Carry out one of ``COMMANDS`` and print what comes of it.

    Args:
        command: its name.
        arguments: its arguments.
        path: the configuration file, or None.
        overrides: settings from the command line.

    Returns:
        The exit code.

    Raises:
        RunqyAgentError: it cannot be carried out.
    """
    if command == "status" and arguments.fleet:
        return _fleet(arguments, path, overrides)
    from runqy_agent.commands.endpoint import Endpoint  # noqa: PLC0415 - each command loads what it needs: it is quick

    endpoint = Endpoint(*_where(arguments.address, path, overrides))
    if command == "status":
        return _status(arguments, endpoint)
    if command == "logs":
        return _logs(arguments, endpoint)
    unit = _unit(arguments) if arguments.unit else None
    if command == "drain":
        return _drain(arguments, endpoint, unit)
    if command == "redeploy":
        return _redeploy(arguments, endpoint, unit)
    from runqy_agent.commands.look import Watcher  # noqa: PLC0415

    watcher = Watcher(endpoint, unit, arguments.not_ready_after)
    return _health(arguments, watcher) if command == "health" else _heal(arguments, watcher)


def _where(address: str, path: str | None, overrides: Mapping[str, str]) -> tuple[str, list[Path]]:
    """Return the address of the worker, and where its token may be."""
    try:
        settings = LocalSettings(path, os.environ, overrides)
    except ConfigError:
        if not address:
            raise
        settings = LocalSettings(None, os.environ)
    return address or settings.address(), settings.token_directories()


def _print_json(value: object) -> None:
    print(to_json(value, ascii_only=True))


def _unit(arguments: argparse.Namespace) -> Unit:
    from runqy_agent.commands.units import Unit  # noqa: PLC0415

    return Unit(arguments.unit, user=arguments.user)


def _status(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from runqy_agent.commands.overview import host_overview  # noqa: PLC0415

    status = endpoint.must_answer()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if arguments.json:
        _print_json(status)
    else:
        print(host_overview(status, width))
    return ExitCode.DONE


def _fleet(arguments: argparse.Namespace, path: str | None, overrides: Mapping[str, str]) -> int:
    import asyncio  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from runqy_agent.commands.fleet import read_fleet  # noqa: PLC0415
    from runqy_agent.commands.overview import fleet_table  # noqa: PLC0415
    from runqy_agent.config import load_config  # noqa: PLC0415

    workers = asyncio.run(read_fleet(load_config(path, overrides=overrides)))
    if arguments.json:
        _print_json({"workers": [asdict(worker) for worker in workers]})
    else:
        print(fleet_table(workers))
    return ExitCode.DONE


def _drain(arguments: argparse.Namespace, endpoint: Endpoint, unit: Unit | None) -> int:
    from runqy_agent.commands.drain import drain, drained  # noqa: PLC0415

    status = drain(endpoint, unit, arguments.wait, undo=arguments.undo)
    done = drained(status, undo=arguments.undo)
    if arguments.json:
        print(
            to_json(
                {name: status[name] for name in ("worker_id", "status", "running")} | {"done": done}, ascii_only=True
            )
        )
    else:
        print(escape(f"{status['status']}, {status['running']} tasks are running"))
    return ExitCode.DONE if done else ExitCode.OTHER


def _logs(arguments: argparse.Namespace, endpoint: Endpoint) -> int:
    from runqy_agent.commands.logs import show_logs  # noqa: PLC0415

    show_logs(endpoint, arguments.lines, arguments.queue, follow=arguments.follow, as_json=arguments.json)
    return ExitCode.DONE


def _redeploy(arguments: argparse.Namespace, endpoint: Endpoint, unit: Unit | None) -> int:
    from runqy_agent.commands.redeploy import all_well, in_lines, redeploy, restart_needs  # noqa: PLC0415

    status, done = redeploy(endpoint, unit, arguments.wait)
    if arguments.json:
        results, restart = (status["redeploy"]["results"], restart_needs(status)) if done else ({}, [])
        print(
            to_json(
                {"worker_id": status["worker_id"], "done": done, "results": results, "restart": restart},
                ascii_only=True,
            )
        )
    elif done:
        print("\n".join(escape_lines(line, "  ") for line in in_lines(status)))
    else:
        print("the worker has been told" if not arguments.wait else "the worker is still at it")
    return ExitCode.DONE if (done and all_well(status)) or not arguments.wait else ExitCode.OTHER


def _health(arguments: argparse.Namespace, watcher: Watcher) -> int:
    from runqy_agent.commands.look import Wanted  # noqa: PLC0415

    began = time.monotonic()
    if arguments.wait is None:
        look = watcher.look()
        samples, well = int(look.verdict.state == "healthy"), look.verdict.well
    else:
        wanted = Wanted(
            arguments.wait, arguments.samples, arguments.interval, arguments.other_than, arguments.expect_version
        )
        look, samples = watcher.wait(wanted)
        well = samples >= arguments.samples
    answer = look.as_json() | {"seconds": round(time.monotonic() - began, 1), "samples": samples}
    if arguments.json:
        _print_json(answer)
    else:
        print(escape_lines(f"{answer['state']}: {answer['reason']}", "  "))
    return ExitCode.DONE if well else ExitCode.OTHER


def _heal(arguments: argparse.Namespace, watcher: Watcher) -> int:
    from runqy_agent.commands.heal import Policy, Records, heal  # noqa: PLC0415

    unit = _unit(arguments)
    policy = Policy(
        arguments.max_per_hour, arguments.verify, arguments.log_lines, arguments.trigger, dry_run=arguments.dry_run
    )
    result, well = heal(watcher, unit, Records(arguments.records, unit.name), policy)
    if arguments.json:
        _print_json(result)
    else:
        action = result["action"].replace("_", " ")
        print(escape_lines(f"{result['unit']}: {result['state']}, {action}: {result['reason']}", "  "))
        print("".join(f"  {escape(line)}\n" for line in result["log"]), end="")
    return ExitCode.DONE if well else ExitCode.OTHER
