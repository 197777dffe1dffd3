"""How the task author's code is started, once it is deployed: which processes, with which command and environment."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from runqy_agent.child_environment import is_secret, passed
from runqy_agent.process.command import Command, check_program, split_command
from runqy_agent.process.environment import process_environment
from runqy_agent.process.gpus import find_gpus
from runqy_agent.process.one_shot import OneShot
from runqy_agent.process.pool import Pool
from runqy_agent.process.recovery import Recovery
from runqy_agent.process.supervisor import Limits

if TYPE_CHECKING:
    from runqy_agent.clock import Clock
    from runqy_agent.config import Config
    from runqy_agent.deployment import Release
    from runqy_agent.process.runner import ProcessRunner
    from runqy_agent.redaction import Redactor
    from runqy_agent.registration import Registration
    from runqy_agent.reporting.output import Output

log = logging.getLogger(__name__)


class Launcher:
    """Makes the runners and commands of a worker's parent queues from its settings and the server's word."""

    def __init__(self, config: Config, clock: Clock, redactor: Redactor, output: Output) -> None:
        self._config = config
        self._clock = clock
        self._redactor = redactor
        self._output = output
        self._gpus: list[str] = []

    async def look_for_gpus(self) -> None:
        """Find out which GPUs there are, where each process is to have its own."""
        if self._config.worker.gpus == "auto":
            self._gpus = await find_gpus()
            if not self._gpus:
                log.warning("worker.gpus is auto, but no GPU was found: the processes are started without")

    def make_runner(self, registration: Registration) -> ProcessRunner:
        """Who is to run the tasks of a parent queue; it still has to be told how (``use``)."""
        config, name = self._config, registration.queue.name

        def recovery() -> Recovery:
            return Recovery(config.recovery, self._clock)

        if registration.deployment.mode == "one_shot":
            return OneShot(name, recovery(), prestart=config.one_shot.prestart)
        limits = Limits(config.worker.max_tasks_per_process, config.worker.max_process_memory)
        return Pool(name, recovery, limits=limits, fail_all=config.recovery.in_flight == "fail_all")

    def commands(self, registration: Registration, release: Release) -> list[Command]:
        """How each process is started.

        Raises:
            DeploymentError: the start command makes no sense, or starts an interpreter that is not the environment's.
        """
        deployment = registration.deployment
        argv = split_command(deployment.startup_cmd, release.python)
        check_program(argv, release.environment, release.code_dir)
        command = Command(
            argv=argv,
            cwd=release.code_dir,
            env=process_environment(
                release.environment, deployment.env_vars, registration.vaults, passed=self._passed(registration)
            ),
            startup_timeout=deployment.startup_timeout_secs,
            max_message_bytes=self._config.worker.max_message_bytes,
            label=registration.queue.name,
            redact=self._redactor.redact,
            redact_cut=self._redactor.redact_cut,
            on_print=self._output.add,
        )
        each = [command.on_gpu(gpu) for gpu in self._gpus] or [command]
        return each * self._config.worker.processes

    def build_variables(self, registration: Registration) -> dict[str, str]:
        """What the operator lets builds have besides (``deployment.build_env``): of the vaults, else of the agent."""
        names = self._config.deployment.build_env
        found = passed(names, self._secrets(registration))
        found |= {
            name: value for name, value in registration.vaults.items() if any(fnmatchcase(name, each) for each in names)
        }
        self._redactor.add(value for name, value in found.items() if is_secret(name))
        return found

    def _passed(self, registration: Registration) -> dict[str, str]:
        """What the operator lets the process have of the agent's environment. None of the agent's secrets is in it."""
        found = passed(self._config.deployment.pass_env, self._secrets(registration))
        self._redactor.add(value for name, value in found.items() if is_secret(name))
        return found

    def _secrets(self, registration: Registration) -> list[str]:
        secrets = [*self._config.secrets(), registration.redis.password.reveal()]
        if registration.git_token:
            secrets.append(registration.git_token.reveal())
        return secrets

    def fingerprint(self, registration: Registration) -> str:
        """Tells apart the ways of starting the same code. Variables may be secrets: it tells nothing about them."""
        deployment = registration.deployment
        how = [deployment.startup_cmd, deployment.mode, deployment.startup_timeout_secs]
        text = json.dumps([*how, deployment.env_vars, registration.vaults, self._passed(registration)], sort_keys=True)
        key = self._config.server.api_key
        return hmac.new(key.reveal().encode() if key else b"", text.encode(), hashlib.sha256).hexdigest()
