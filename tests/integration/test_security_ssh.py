"""Code over SSH from a real sshd: the host is checked, and nobody is ever asked anything."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployment_kit import deploy
from runqy_agent.config.settings import DeploymentSettings, GitSettings
from runqy_agent.demo.redis_server import free_port
from runqy_agent.deployment import Deployer, Source
from runqy_agent.errors import GitError
from stage import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployment_kit import Bench
    from runqy_agent.deployment import Release

ALIAS = "git.example.com"
"""A name that ssh's own configuration leads to the server: ``user@host:path`` has no place for a port."""


def find(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: openssh-server, openssh-client)")
    return found


class Sshd:
    """An sshd of the test's own, on a free port of loopback, that lets one key in."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.program = find("sshd")
        self.port = free_port()
        self.key = self.make_key("client")
        authorized = directory / "authorized_keys"
        authorized.write_bytes(self.key.with_suffix(".pub").read_bytes())
        if os.geteuid() == 0:  # where the start script of the service makes it
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._config = directory / "sshd_config"
        self._config.write_text(
            f"AuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n",
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def make_key(self, name: str, passphrase: str = "") -> Path:
        path = self.directory / name
        command = [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path

    def start(self, host_key: str) -> None:
        """Serve, with the host key of this name."""
        key = self.directory / host_key
        if not key.exists():
            self.make_key(host_key)
        log = self.directory / f"{host_key}.log"
        command = [self.program, "-D", "-E", str(log), "-f", str(self._config), "-h", str(key)]
        command += ["-p", str(self.port), "-o", "ListenAddress=127.0.0.1"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, log.read_text(encoding="utf-8")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as probe:
                return probe.recv(4) == b"SSH-"
            return False

        until(answers, "sshd answers", patience=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def known_as(self, host_key: str) -> str:
        """The line of a known_hosts file for it."""
        kind, key, *_ = (self.directory / f"{host_key}.pub").read_text(encoding="utf-8").split()
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A running sshd, and an ssh that does not read or write the files of whoever runs the tests."""
    sshd = Sshd(tmp_path / "sshd")
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    config = home / "config"
    config.write_text(
        f"Host {ALIAS}\n  HostName 127.0.0.1\n  Port {sshd.port}\n"
        f"Host *\n  UserKnownHostsFile {home}/known_hosts\n  GlobalKnownHostsFile none\n  IdentityAgent none\n",
        encoding="utf-8",
    )
    # ssh takes the home directory from the user database, whatever HOME says. This stands for another user's files.
    wrapper = home / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {find("ssh")} -F {shlex.quote(str(config))} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    asked = home / "asked"
    askpass = home / "askpass"
    askpass.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(asked))}\necho yes\n", encoding="utf-8")
    askpass.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SSH_ASKPASS", str(askpass))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("DISPLAY", ":0")
    sshd.start("host")
    yield sshd
    sshd.stop()
    assert not asked.exists(), "ssh asked for something"


def fetch(bench: Bench, url: str, queue: str = "inference", *, ssh_key: Path, known_hosts: str = "") -> Release:
    settings = DeploymentSettings(dir=str(bench.home), offline=True, find_links=[str(bench.wheels)])
    return deploy(
        Deployer(settings, GitSettings(ssh_key=str(ssh_key), known_hosts=known_hosts)), Source(url, "main"), queue
    )


def urls(bench: Bench, sshd: Sshd) -> tuple[str, str]:
    user = getpass.getuser()
    return f"ssh://{user}@127.0.0.1:{sshd.port}{bench.repo.path}", f"{user}@{ALIAS}:{bench.repo.path}"


def test_code_comes_over_both_forms_of_url_with_the_key_of_the_settings(bench: Bench, sshd: Sshd) -> None:
    commit = bench.repo.commit(main_dot_py="1")
    for number, url in enumerate(urls(bench, sshd)):
        release = fetch(bench, url, f"q{number}", ssh_key=sshd.key)
        assert release.commit == commit
        assert (release.code_dir / "main.py").is_file()


def test_a_host_is_accepted_the_first_time_remembered_and_refused_when_its_key_has_changed(
    bench: Bench, sshd: Sshd
) -> None:
    bench.repo.commit(main_dot_py="1")
    url, _ = urls(bench, sshd)
    fetch(bench, url, "first", ssh_key=sshd.key)
    sshd.stop()
    sshd.start("other-host")
    with pytest.raises(GitError, match=r"(?s)has changed.*Host key verification failed") as refused:
        fetch(bench, url, "second", ssh_key=sshd.key)
    assert "127.0.0.1" in str(refused.value)
    sshd.stop()
    sshd.start("host")
    fetch(bench, url, "third", ssh_key=sshd.key)


def test_a_file_of_known_hosts_must_hold_the_host_with_this_key(bench: Bench, sshd: Sshd, tmp_path: Path) -> None:
    bench.repo.commit(main_dot_py="1")
    url, _ = urls(bench, sshd)
    known = tmp_path / "known hosts"
    sshd.make_key("stranger")
    for number, content in enumerate(("", sshd.known_as("stranger"))):
        known.write_text(content, encoding="utf-8")
        with pytest.raises(GitError, match="Host key verification failed"):
            fetch(bench, url, f"refused-{number}", ssh_key=sshd.key, known_hosts=str(known))
        assert known.read_text(encoding="utf-8") == content
    known.write_text(sshd.known_as("host"), encoding="utf-8")
    assert fetch(bench, url, ssh_key=sshd.key, known_hosts=str(known)).commit


def test_a_key_that_is_not_let_in_or_needs_a_passphrase_is_an_error_and_no_question(bench: Bench, sshd: Sshd) -> None:
    bench.repo.commit(main_dot_py="1")
    url, _ = urls(bench, sshd)
    for key in (sshd.make_key("uninvited"), sshd.make_key("locked", "a passphrase")):
        with pytest.raises(GitError, match="Permission denied"):
            fetch(bench, url, key.name, ssh_key=key)
