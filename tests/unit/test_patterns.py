"""Bounds for the server: a pattern matches what it means, and nothing that only looks like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config_kit import Files
from runqy_agent.config.patterns import RepositoryPattern
from runqy_agent.config.settings import DeploymentSettings
from runqy_agent.deployment import Bounds, NotAllowedError
from runqy_agent.errors import GitError
from runqy_agent.process.vault_names import refused_names

if TYPE_CHECKING:
    from pathlib import Path

ACME = "https://github.com/acme/*"


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        (ACME, "https://github.com/acme/tasks"),
        (ACME, "https://github.com/acme/tasks.git"),
        (ACME, "https://github.com/acme/tasks/"),
        (ACME, "https://github.com/acme/team/tasks.git"),
        (ACME, "HTTPS://GitHub.COM:443/acme/tasks"),
        (ACME, "https://github.com./acme/tasks"),
        (ACME, "https://token@github.com/acme/tasks"),
        (ACME, "https://user:pass@github.com/acme/tasks"),
        ("https://github.com/*", "https://github.com/anybody/anything"),
        ("https://github.com/acme/tasks.git", "https://github.com/acme/tasks"),
        ("https://github.com/acme/tasks", "https://github.com/acme/tasks.git"),
        ("https://github.com/acme/jobs-*", "https://github.com/acme/jobs-gpu.git"),
        ("https://github.com/*/tasks", "https://github.com/acme/tasks"),
        ("https://github.com/acme/task?", "https://github.com/acme/tasks"),
        ("https://*.example.com/acme/*", "https://git.example.com/acme/x"),
        ("https://git.example.com:8443/*", "https://git.example.com:8443/x"),
        ("git@github.com:acme/*", "git@github.com:acme/tasks.git"),
        ("git@github.com:acme/*", "ssh://git@github.com/acme/tasks"),
        ("git@github.com:acme/*", "ssh://git@github.com:22/acme/tasks"),
        ("ssh://github.com/acme/*", "git@GITHUB.com:acme/tasks.git"),
        ("ssh://github.com/acme/*", "ssh://github.com/acme/tasks.git"),
        ("deploy@host:acme/*", "deploy@host:/acme/tasks"),
        ("/srv/git/*", "/srv/git/tasks.git"),
        ("/srv/git/*", "file:///srv/git/tasks.git"),
        ("file:///srv/git/tasks", "file://localhost/srv/git/tasks.git"),
        ("/srv/x.git/*", "/srv/x.git/y"),
        ("git://[::1]/acme/*", "git://[::1]:9418/acme/x"),
    ],
)
def test_a_repository_that_is_meant_matches(pattern: str, url: str) -> None:
    assert RepositoryPattern(pattern).matches(url)
    Bounds(DeploymentSettings(allowed_repositories=["/other", pattern])).check_repository(url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        (ACME, "https://github.com/acme"),
        (ACME, "https://github.com/acme/"),
        (ACME, "https://github.com/acme/../evil/tasks"),
        (ACME, "https://github.com/acme/./tasks"),
        (ACME, "https://github.com/acme/%2e%2e/evil"),
        (ACME, "https://github.com/acme/%252e%252e/evil"),
        (ACME, "https://github.com/acme/x%2f..%2f..%2fevil"),
        (ACME, "https://github.com/acme/..\\evil"),
        (ACME, "https://github.com/acme%2ftasks"),
        (ACME, "https://github.com/acme/tasks?service=evil"),
        (ACME, "https://github.com/acme//evil"),
        (ACME, "https://github.com//acme/x"),
        (ACME, "https://github.com/acme/x?/../../evil"),
        (ACME, "https://github.com/acme/x#/../../evil"),
        (ACME, "https://github.com/acme%23/x"),
        (ACME, "https://github.com/acme@evil/tasks"),
        (ACME, "https://github.com@evil.com/acme/tasks"),
        (ACME, "https://github.com%2facme@evil.com/acme/x"),
        (ACME, "https://evil.com/https://github.com/acme/x"),
        (ACME, "https://github.com.evil.com/acme/x"),
        (ACME, "https://evilgithub.com/acme/x"),
        (ACME, "https://github.com/acmeevil/x"),
        (ACME, "https://github.com/ACME/x"),
        (ACME, "https://github.com:8443/acme/x"),
        (ACME, "http://github.com/acme/x"),
        (ACME, "ssh://git@github.com/acme/x"),
        (ACME, "git@github.com:acme/x"),
        (ACME, "/github.com/acme/x"),
        ("https://github.com/acme/tasks", "https://github.com/acme/tasks2"),
        ("https://github.com/acme/tasks", "https://github.com/acme/tasks/more"),
        ("https://github.com/acme/task?", "https://github.com/acme/task"),
        ("https://github.com/*/tasks", "https://github.com/a/b/tasks"),
        ("https://github.com/acme/a.c", "https://github.com/acme/abc"),
        ("https://*.example.com/acme/*", "https://example.com/acme/x"),
        ("https://*.example.com/acme/*", "https://evil.com/.example.com/acme/x"),
        ("git@github.com:acme/*", "evil@github.com:acme/tasks"),
        ("ssh://github.com/acme/*", "evil@github.com:acme/tasks"),
        ("deploy@host:acme/*", "host:acme/x"),
        ("git@github.com:acme/*", "ssh://git@github.com:2222/acme/tasks"),
        ("git@github.com:acme/*", "git@github.com:acme/../evil"),
        ("/srv/git/*", "/srv/git/../../etc"),
        ("/srv/git/*", "/srv/gitevil/x"),
        ("/srv/git/*", "file:///srv/git"),
        ("/srv/git/*", "file://elsewhere/srv/git/x"),
    ],
)
def test_a_repository_that_only_looks_like_it_does_not_match(pattern: str, url: str) -> None:
    assert not RepositoryPattern(pattern).matches(url)
    with pytest.raises((NotAllowedError, GitError)):
        Bounds(DeploymentSettings(allowed_repositories=[pattern])).check_repository(url)


def test_a_refused_repository_is_told_with_what_is_allowed_and_without_its_password() -> None:
    bounds = Bounds(DeploymentSettings(allowed_repositories=[ACME, "/srv/git/*"]))
    with pytest.raises(NotAllowedError) as refused:
        bounds.check_repository("https://user:hush-hush@evil.com/acme/x")
    text = str(refused.value)
    assert "https://evil.com/acme/x" in text
    assert f"deployment.allowed_repositories allows {ACME}, /srv/git/*" in text
    assert "hush" not in text
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("python main.py", "python main.py"),
        ("python main.py", "python   'main.py'"),
        ("python jobs/*.py", "python jobs/gpu.py"),
        ("python *.py --fast", "python main.py --fast"),
        ("python ?.py", "python a.py"),
        ("gunicorn **", "gunicorn"),
        ("gunicorn **", "gunicorn -w 4 app:app"),
        ("python 'my file.py'", "python my\\ file.py"),
        ("python -m *", "python -m jobs.main"),
        ("python ../x", "python ../x"),
        ("./run[1]", "./run[1]"),
    ],
)
def test_a_command_that_is_meant_matches(pattern: str, command: str) -> None:
    Bounds(DeploymentSettings(allowed_commands=["other", pattern])).check_command(
        command, {"MODEL": "x"}, refused_names
    )


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("python main.py", "python main.py extra"),
        ("python main.py", "python"),
        ("python main.py", "python main.pyc"),
        ("python main.py", "python3 main.py"),
        ("python main.py", "Python main.py"),
        ("python main.py", "'python main.py'"),
        ("python main.py", ""),
        ("python main.py", "python 'main.py"),
        ("python main.py", "python main.py; rm -rf /"),
        ("python main.py", "python main.py\nevil"),
        ("python *", "python -cevil"),
        ("python ?c", "python -c"),
        ("python *.py", "python jobs/x.py"),
        ("python jobs/*.py", "python jobs/../evil.py"),
        ("python jobs/*", "python jobs/.."),
        ("python jobs/*.py", "python jobs/a/b.py"),
        ("python */main.py", "python ../main.py"),
        ("python m.in.py", "python main.py"),
        ("./run[1]", "./run1"),
        ("gunicorn -w **", "gunicorn"),
        ("gunicorn -w **", "gunicorn -c evil.py"),
        ("gun*", "gun/icorn"),
    ],
)
def test_a_command_that_only_looks_like_it_does_not_match(pattern: str, command: str) -> None:
    with pytest.raises(NotAllowedError, match=r"deployment\.allowed_commands allows "):
        Bounds(DeploymentSettings(allowed_commands=[pattern])).check_command(command, {}, refused_names)


def test_a_variable_that_leads_to_another_program_is_refused_where_commands_are_bounded_and_only_there() -> None:
    bounded, free = Bounds(DeploymentSettings(allowed_commands=["python main.py"])), Bounds(DeploymentSettings())
    with pytest.raises(NotAllowedError, match="env_vars set LD_PRELOAD, PYTHONSTARTUP, which") as refused:
        bounded.check_command("python main.py", {"LD_PRELOAD": "hush", "X": "1", "PYTHONSTARTUP": "x"}, refused_names)
    assert "hush" not in str(refused.value)
    free.check_command("anything 'open", {"LD_PRELOAD": "x"}, refused_names)
    free.check_repository("https://anything/at-all")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("allowed_repositories: ['*']", "found '*': found neither a URL"),
        ("allowed_repositories: [github.com/acme/*]", "found neither a URL"),
        ("allowed_repositories: ['ext::sh*']", "ext"),
        ("allowed_repositories: ['ftp://h/*']", "found the transport 'ftp'; allowed are https, http"),
        ("allowed_repositories: ['https://u:p@github.com/*']", "leave user name and password out"),
        ("allowed_repositories: ['https://github.com/**/x']", "** has no meaning there"),
        ("allowed_repositories: ['https://github.com/a/../*']", "dots"),
        ("allowed_repositories: ['https:///x']", "found no host"),
        ("allowed_repositories: ['https://h:x/y']", "found a malformed host or port"),
        ("allowed_repositories: ['']", "found neither a URL"),
        ("allowed_commands: ['']", "found no program in it"),
        ("allowed_commands: ['**']", "found no program in it"),
        ("allowed_commands: ['a ** b']", "** stands at the end"),
        ('allowed_commands: ["a \'b"]', "No closing quotation"),
        ("pass_env: ['A B']", "found 'A B'; allowed are names of variables"),
        ("pass_env: ['']", "allowed are names of variables"),
        ("pass_env: [RUNQY_API_KEY]", "the agent's own settings are never passed on"),
        ("pass_env: ['runqy_*']", "the agent's own settings are never passed on"),
        ("pass_env: ['[A-Z]']", "allowed are names of variables"),
    ],
)
def test_a_malformed_pattern_is_refused_at_the_start(setting: str, words: str, tmp_path: Path) -> None:
    (found,) = Files(tmp_path).problems(f"deployment: {{{setting}}}")
    assert found.startswith("config.yml:")
    assert f"deployment.{setting.partition(':')[0]}: " in found
    assert words in found
