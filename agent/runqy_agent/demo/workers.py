"""The worker that the demo shows: one in this very process, or one that a playbook has deployed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runqy_agent.commands.endpoint import Endpoint
from runqy_agent.errors import RunqyAgentError
from runqy_agent.worker import Worker

if TYPE_CHECKING:
    from runqy_agent.demo.stage import Stage
    from runqy_agent.redaction import Redactor

_LOOK_SECONDS = 0.1
_LINES = 40


class DemoWorker(Protocol):
    """What the demo does with a worker."""

    async def start(self) -> None:
        """Bring it up; returns when it takes tasks or is about to."""

    async def run(self) -> None:
        """Serve until it is stopped."""

    def stop(self) -> None:
        """Let it drain and end; a second time: at once. Any number of calls."""


class InProcessWorker:
    """For ``runqy-agent demo``: needs nothing but the package."""

    def __init__(self, stage: Stage, redactor: Redactor) -> None:
        self._worker = Worker(stage.config(), redactor=redactor)
        self.start = self._worker.bootstrap
        self.run = self._worker.run
        self.stop = self._worker.stop


class DeployedWorker:
    """For ``make demo``: installed and configured by the playbook as on a host without root, and then started."""

    def __init__(self, stage: Stage, playbook: Path) -> None:
        """Args: playbook: ``deploy.yml`` of a checkout or of the installed collection."""
        self._stage = stage
        self._playbook = playbook
        self._home = stage.scratch / "worker"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Deploy it, start it, and wait until it says that it is running."""
        await self._deploy()
        log = self._stage.log.open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                self._home / "runqy-agent",
                "run",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        endpoint = Endpoint(str(self._home / "status.sock"))
        try:
            while (await asyncio.to_thread(endpoint.status) or {}).get("status") != "running":
                await asyncio.sleep(_LOOK_SECONDS)
                self._check(self._process.returncode or 0)
        except BaseException:
            self.stop()
            await self._process.wait()
            raise

    async def run(self) -> None:
        """Wait for its end."""
        if self._process is not None:
            self._check(await self._process.wait())

    def _check(self, code: int) -> None:
        if code != 0:
            raise RunqyAgentError(f"the worker ended with {code}; see {self._stage.log}")

    def stop(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def _deploy(self) -> None:
        self._home.mkdir()
        inventory = self._home / "inventory.json"
        inventory.touch(mode=0o600)  # it holds the key
        inventory.write_text(json.dumps(self._inventory()), encoding="utf-8")
        program = Path(sys.executable).with_name("ansible-playbook")
        command = str(program) if program.exists() else shutil.which("ansible-playbook")
        if command is None:
            raise RunqyAgentError("ansible-playbook is not installed: pip install 'runqy-agent[demo]'")
        own = {"ANSIBLE_HOME": str(self._home / "ansible"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        process = await asyncio.create_subprocess_exec(
            command,
            "-i",
            inventory,
            self._playbook,
            env={**os.environ, **own, "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0", "LC_ALL": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
            raise
        if process.returncode != 0:
            end = "\n".join(output.decode(errors="replace").splitlines()[-_LINES:])
            raise RunqyAgentError(f"{self._playbook} ended with {process.returncode}:\n{end}")

    def _inventory(self) -> dict[str, object]:
        """This machine, as a host without root. Versions and environments are kept; the rest is of this demo alone."""
        config = self._stage.config()
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "runqy_agent_scope": "user",
            "runqy_agent_service_manager": "none",  # the demo starts it, and stops it
            "runqy_agent_prefix": str(self._stage.kept / "worker"),
            "runqy_agent_data_dir": str(self._stage.kept / "worker-data"),
            "runqy_agent_config_dir": str(self._home / "etc"),
            "runqy_agent_command": str(self._home / "runqy-agent"),
            "runqy_agent_server_url": config.server.url,
            "runqy_agent_api_key": self._stage.server.api_key,
            "runqy_agent_queues": config.worker.queues,
            "runqy_agent_concurrency": config.worker.concurrency,
            "runqy_agent_min_free_mb": 100,
            "runqy_agent_python": sys.executable,
            "runqy_agent_config": {
                "deployment": {
                    "python": config.deployment.python,
                    "use_system_site_packages": config.deployment.use_system_site_packages,
                    "keep_releases": config.deployment.keep_releases,
                },
                "status": {"listen": str(self._home / "status.sock")},
                "log": {"format": "text"},
            },
        }
        return {"runqy_agents": {"hosts": {"localhost": variables}}}
