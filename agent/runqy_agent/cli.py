"""The ``runqy-agent`` command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import io
import logging
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runqy_agent._version import __version__
from runqy_agent.commands import arguments as host_commands
from runqy_agent.config.duration import format_duration
from runqy_agent.errors import ExitCode, RunqyAgentError
from runqy_agent.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runqy_agent.config import Config

_NAME = "runqy-agent"
_FILE_VARIABLE = "RUNQY_CONFIG"
_EXIT_CODES = """\
exit codes:
  0  done
  1  anything else
  2  the configuration or the command line is wrong
  3  the runqy server refused, or was unreachable
  4  the deployment failed
  5  the process did not become ready
  6  Redis is unreachable or refuses, at start

Settings come from --set, then RUNQY_* variables, then the file, then defaults. The file is that of -config, or the one
that RUNQY_CONFIG names; without either, none is read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; by default this process's.

    Returns:
        The exit code, one of ``ExitCode``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show is no reason to fail
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        command = _command(parser, arguments)
    except SystemExit as stop:  # argparse has said why: --help, or a usage error
        return stop.code if isinstance(stop.code, int) else ExitCode.CONFIG
    try:
        return _execute(command, arguments, parser)
    except RunqyAgentError as error:
        return _report(error)
    except Exception:
        logging.getLogger("runqy_agent.cli").exception("%s failed unexpectedly", command)
        return ExitCode.OTHER


def _command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The subcommand, whether given as such or in the form of a flag."""
    forms = [name for name in ("validate", "version") if getattr(arguments, f"{name}_flag")]
    if arguments.command:
        forms.append(arguments.command)
    if len(set(forms)) > 1:
        parser.error(f"choose one of {', '.join(forms)}")
    if forms:
        return str(forms[0])
    if arguments.config or arguments.settings or os.environ.get("RUNQY_SERVER_URL") or os.environ.get(_FILE_VARIABLE):
        return "run"
    return "help"


def _execute(command: str, arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if command == "help":
        parser.print_help(sys.stderr)
        return ExitCode.CONFIG
    if command == "version":
        print(f"{_NAME} {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
        return ExitCode.DONE
    if command == "demo":
        from runqy_agent.demo.main import run_demo  # noqa: PLC0415 - the demo needs packages that a worker does not

        return run_demo(keep=arguments.keep, playbook=arguments.playbook)
    overrides = dict(arguments.settings + getattr(arguments, "more_settings", []))
    path = arguments.config or os.environ.get(_FILE_VARIABLE) or None
    if command in host_commands.COMMANDS:
        return host_commands.execute(command, arguments, path, overrides)
    from runqy_agent.config import load_config  # noqa: PLC0415 - the commands on the host are quick without it

    if command == "run":
        from runqy_agent.hardening import keep_memory_private  # noqa: PLC0415 - the same

        keep_memory_private()  # before there is a secret in it
    config = load_config(path, overrides=overrides)
    if command == "validate":
        return _validate(config)
    from runqy_agent.service import run_service  # noqa: PLC0415 - the same

    return run_service(config, lambda: load_config(path, overrides=overrides))


def _validate(config: Config) -> int:
    for warning in config.warnings:
        print(f"{_NAME}: warning: {escape(warning)}", file=sys.stderr)
    worker = config.worker
    print("configuration is valid")
    print(f"  server            {config.server.url}")
    print(f"  queues            {', '.join(config.queues())}")
    print(f"  concurrency       {worker.concurrency}")
    print(f"  shutdown timeout  {format_duration(worker.shutdown_timeout)}")
    print(f"  deployment        {config.deployment.dir}")
    return ExitCode.DONE


def _report(error: RunqyAgentError) -> int:
    for line in str(error).split("\n"):
        print(f"{_NAME}: {escape(line)}", file=sys.stderr)
    return error.exit_code


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError("expected section.key=value")
    return key.strip(), value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="A worker for the runqy task queue: deploys, supervises and feeds your Python task code.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_sources(parser, config_default=None, settings="settings")
    parser.add_argument(
        "-validate", "--validate", dest="validate_flag", action="store_true", help="the same as validate"
    )
    parser.add_argument("-version", "--version", dest="version_flag", action="store_true", help="the same as version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser("run", help="serve the configured queues (the default)", allow_abbrev=False)
    validate = commands.add_parser("validate", help="check the configuration and exit", allow_abbrev=False)
    for command in (run, validate):
        # What stands before the command must survive it.
        _add_sources(command, config_default=argparse.SUPPRESS, settings="more_settings")
    host_commands.add_commands(
        commands, lambda command: _add_sources(command, config_default=argparse.SUPPRESS, settings="more_settings")
    )
    commands.add_parser("version", help="print the version and exit", allow_abbrev=False)
    demo = commands.add_parser("demo", help="see it at work, without a server or Redis", allow_abbrev=False)
    demo.add_argument(
        "--playbook", type=Path, metavar="FILE", help="deploy the worker with Ansible: playbooks/deploy.yml"
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave it all running until Ctrl-C, and say how to talk to it"
    )
    return parser


def _add_sources(parser: argparse.ArgumentParser, *, config_default: str | None, settings: str) -> None:
    parser.add_argument(
        "-config",
        "--config",
        "-c",
        dest="config",
        metavar="FILE",
        default=config_default,
        help="the configuration file",
    )
    parser.add_argument(
        "--set",
        dest=settings,
        metavar="SECTION.KEY=VALUE",
        type=_setting,
        action="append",
        default=[],
        help="a setting that overrides file and environment; may be repeated",
    )
