"""What of a repository URL, a branch and a path is let through to Git, and what stays out of sight."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from runqy_agent.config.settings import GitSettings, Secret
from runqy_agent.deployment.commands import last_lines, redact
from runqy_agent.deployment.git_access import OPTIONS, prepare_access
from runqy_agent.deployment.releases import directory_name
from runqy_agent.deployment.source import (
    Source,
    check_branch,
    check_code_path,
    is_full_commit,
    may_be_abbreviated_commit,
    parse_location,
)
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ"


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("https://git.example.com/team/tasks.git", "https"),
        ("https://git.example.com:8443/team/tasks", "https"),
        ("HTTPS://git.example.com/team/tasks", "https"),
        ("ssh://git@git.example.com:2222/team/tasks.git", "ssh"),
        ("git://git.example.com/tasks.git", "git"),
        ("file:///srv/git/tasks.git", "file"),
        ("git@git.example.com:team/tasks.git", "ssh"),
        ("git@[2001:db8::1]:tasks.git", "ssh"),
        ("/srv/git/tasks.git", "file"),
        ("http://127.0.0.1:3000/tasks.git", "http"),
    ],
)
def test_the_usual_forms_of_url_are_allowed(url: str, transport: str) -> None:
    assert parse_location(url).transport == transport


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ext::sh -c id",
        "ext::sh",
        "fd::17/foo",
        "https::https://git.example.com/x",
        "-uhttps://git.example.com/x",
        "--upload-pack=/bin/sh",
        "ftp://git.example.com/x",
        "git+ssh://git.example.com/x",
        "https://git.example.com",
        "https://git.example.com/",
        "https:///tasks.git",
        "https://-oProxyCommand=id/x",
        "https://git.example.com:port/x",
        "ssh://-oProxyCommand=id/x",
        "ssh://-oProxyCommand=id@git.example.com/x",
        "ssh://git:password@git.example.com/x",
        "-oProxyCommand=id@git.example.com:x",
        "git@-oProxyCommand=id:x",
        "git@git.example.com:-x",
        "git.example.com:x",
        "file://git.example.com/x",
        "file://relative/x",
        "tasks.git",
        "../tasks.git",
        "https://git.example.com/a b",
        "https://git.example.com/a\nb",
        "https://git.example.com/a\x00b",
        "https://git.example.com/a\x1b[2J",
        "https://user%0Aname:secret@git.example.com/x",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(GitError):
        parse_location(url)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{TOKEN}@git.example.com:bad/x",
        f"ftp://user:{TOKEN}@git.example.com/x",
        f"ssh://git:{TOKEN}@git.example.com/x",
        f"ext::https://{TOKEN}@git.example.com/x",
        f"https://{TOKEN}@git.example.com/a b",
    ],
)
def test_a_refusal_never_shows_the_token(url: str) -> None:
    with pytest.raises(GitError) as refused:
        parse_location(url)
    assert TOKEN not in str(refused.value)
    assert TOKEN not in repr(Source(url, "main"))


@pytest.mark.parametrize(
    ("userinfo", "username", "token"),
    [
        ("", "", ""),
        ("ci:secret@", "ci", "secret"),
        ("ci:p%40ss%2Fw@", "ci", "p@ss/w"),
        (f"{TOKEN}@", "", TOKEN),
        (f"{TOKEN}:x-oauth-basic@", "", TOKEN),
        (f"{TOKEN}:@", "", TOKEN),
        ("deployer@", "deployer", "deployer"),
    ],
)
def test_secrets_are_taken_out_of_the_url(userinfo: str, username: str, token: str) -> None:
    location = parse_location(f"https://{userinfo}git.example.com/tasks.git")
    assert location.url == "https://git.example.com/tasks.git"
    assert (location.username, location.token) == (username, token)
    assert not token or token not in repr(location) or token == username


def test_http_warns_off_loopback_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse_location("http://localhost:3000/tasks.git")
        parse_location("http://[::1]:3000/tasks.git")
        assert not caplog.records
        parse_location("http://user:secret@git.example.com/tasks.git")
    assert "without encryption" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("branch", ["main", "feature/gpu-2", "v1.2.3", "release_2026.01", "a" * 40, "übung"])
def test_names_of_branches_are_allowed(branch: str) -> None:
    assert check_branch(branch) == branch


@pytest.mark.parametrize(
    "branch",
    [
        "",
        "-x",
        "--upload-pack=id",
        "a..b",
        "a b",
        "a:b",
        "a?",
        "a*",
        "a[b",
        "a\\b",
        "a~1",
        "a^",
        "a^{}",
        "a@{1}",
        "a.lock",
        "a.lock/b",
        "a/",
        "/a",
        "a//b",
        "a/.b",
        ".a",
        "a.",
        "@",
        "a\nb",
        "a\x7fb",
    ],
)
def test_names_that_git_would_read_otherwise_are_refused(branch: str) -> None:
    with pytest.raises(GitError, match="no possible name"):
        check_branch(branch)


@pytest.mark.parametrize(
    ("given", "path"),
    [("", ""), (".", ""), ("./", ""), ("a", "a"), ("./a//b/", "a/b"), (" a ", "a"), ("a b/c", "a b/c")],
)
def test_a_code_path_is_brought_to_its_shortest_form(given: str, path: str) -> None:
    assert check_code_path(given) == path


@pytest.mark.parametrize("path", ["/etc", "..", "a/../..", "a/..", "../a", "a\\..\\b", ".git", "a/.GIT/hooks", "a\nb"])
def test_a_code_path_that_may_lead_outside_is_refused(path: str) -> None:
    with pytest.raises(GitError, match="code_path"):
        check_code_path(path)


def test_commits_are_told_from_names() -> None:
    assert is_full_commit("a" * 40)
    assert is_full_commit("0" * 64)
    assert not is_full_commit("a" * 39)
    assert not is_full_commit("A" * 40)
    assert may_be_abbreviated_commit("abcdef1")
    assert not may_be_abbreviated_commit("abcdef")
    assert not may_be_abbreviated_commit("feature")


def test_git_gets_no_prompt_no_helper_and_nothing_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNQY_API_KEY", "agent-secret")
    monkeypatch.setenv("GIT_DIR", "/somewhere")
    monkeypatch.setenv("GIT_TRACE_CURL", "1")
    monkeypatch.setenv("GIT_SSL_CAINFO", "/etc/ca.pem")
    monkeypatch.setenv("https_proxy", "http://proxy.example.com")
    location = parse_location("https://git.example.com/tasks.git")
    access = prepare_access(location, GitSettings(), None, tmp_path)
    assert not [name for name in access.env if name.startswith("RUNQY_")]
    assert "GIT_DIR" not in access.env
    assert "GIT_TRACE_CURL" not in access.env
    assert access.env["GIT_SSL_CAINFO"] == "/etc/ca.pem"
    assert access.env["https_proxy"] == "http://proxy.example.com"
    assert access.env["GIT_TERMINAL_PROMPT"] == "0"
    assert access.env["GIT_ASKPASS"] == ""
    assert access.env["GIT_ALLOW_PROTOCOL"] == "https:http:ssh:git:file"
    assert "credential.helper=" in OPTIONS
    assert "core.hooksPath=/dev/null" in OPTIONS


def test_the_token_of_the_settings_wins_then_the_urls_then_the_servers(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n", encoding="utf-8")
    plain = parse_location("https://git.example.com/x")
    tokened = parse_location("https://ci:from-url@git.example.com/x")
    server = Secret("from-server")

    def used(location: object, settings: GitSettings) -> tuple[str, str]:
        assert isinstance(location, type(plain))
        env = prepare_access(location, settings, server, tmp_path).env
        return env["AGENT_GIT_USERNAME"], env["AGENT_GIT_TOKEN"]

    assert used(plain, GitSettings()) == ("x-access-token", "from-server")
    assert used(tokened, GitSettings()) == ("ci", "from-url")
    assert used(tokened, GitSettings(token=Secret("from-settings"))) == ("ci", "from-settings")
    assert used(plain, GitSettings(token_file=str(tmp_path / "token"))) == ("x-access-token", "from-file")
    with pytest.raises(GitError, match="token_file"):
        used(plain, GitSettings(token_file=str(tmp_path / "none")))


def test_a_lone_token_in_the_url_never_becomes_the_user_name(tmp_path: Path) -> None:
    for userinfo in (f"{TOKEN}@", "short@"):
        location = parse_location(f"https://{userinfo}git.example.com/x")
        access = prepare_access(location, GitSettings(), None, tmp_path)
        assert access.env["AGENT_GIT_LOGIN"] == "https://x-access-token@git.example.com"


def test_a_token_is_not_given_to_other_transports(tmp_path: Path) -> None:
    for url in ("ssh://git@git.example.com/x", "git@git.example.com:x", "file:///x", "git://git.example.com/x"):
        access = prepare_access(parse_location(url), GitSettings(token=Secret(TOKEN)), None, tmp_path)
        assert TOKEN not in access.env.values()
        assert access.env["GIT_ASKPASS"] == ""


def test_ssh_checks_host_keys_and_never_asks(tmp_path: Path) -> None:
    location = parse_location("git@git.example.com:x")
    command = prepare_access(location, GitSettings(), None, tmp_path).env["GIT_SSH_COMMAND"]
    assert "BatchMode=yes" in command
    assert "StrictHostKeyChecking=accept-new" in command

    key, hosts = tmp_path / "my key; id", tmp_path / "100% known"
    key.touch()
    hosts.touch()
    settings = GitSettings(ssh_key=str(key), known_hosts=str(hosts))
    command = prepare_access(location, settings, None, tmp_path).env["GIT_SSH_COMMAND"]
    assert f"-i '{key}' -o IdentitiesOnly=yes" in command
    assert "StrictHostKeyChecking=yes" in command
    assert "100%% known" in command
    with pytest.raises(GitError, match=r"git\.ssh_key"):
        prepare_access(location, GitSettings(ssh_key=str(tmp_path / "none")), None, tmp_path)


def test_output_is_redacted() -> None:
    text = f"fatal: https://user:pass@git.example.com/x and {TOKEN} and ssh://git@git.example.com"
    assert redact(text, [TOKEN, ""]) == "fatal: https://***@git.example.com/x and *** and ssh://git@git.example.com"


def test_only_the_last_lines_that_say_something_are_quoted() -> None:
    assert last_lines("a\n\n\nb  \nc\n\n", 2) == "b\nc"


@pytest.mark.parametrize(
    ("queue", "directory"),
    [
        ("inference", "inference"),
        ("inference.high", "inference.high"),
        ("a:b", "a%3Ab"),
        ("..", "%2E."),
        ("a/b", "a%2Fb"),
    ],
)
def test_a_queue_name_becomes_one_safe_directory_name(queue: str, directory: str) -> None:
    assert directory_name(queue) == directory
