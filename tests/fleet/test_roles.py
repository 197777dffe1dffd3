"""The roles' interfaces: what is documented is what there is."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec.inspect
import pytest
import yaml

from runqy_agent.config.keys import KEYS, Key

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
# Set by variables of their own, or placed by the role itself.
ELSEWHERE = {"server.url", "worker.queue", "worker.queues", "worker.concurrency"}
SECRET_FILES = ("api_key_file", "token_file", "password_file")
TYPES = {
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.IntType: "int",
    msgspec.inspect.FloatType: "float",
    msgspec.inspect.ListType: "list",
}


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def options(role: str) -> dict[str, Any]:
    specs: dict[str, Any] = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return specs


def all_options(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, option in tree.items():
        found[prefix + name] = option
        found |= all_options(option.get("options", {}), f"{prefix}{name}.")
    return found


def config_options() -> dict[str, Any]:
    tree = options("runqy_agent")["runqy_agent_config"]["options"]
    return {path: option for path, option in all_options(tree).items() if "options" not in option}


def ansible_type(key: Key) -> str:
    members = key.type.types if isinstance(key.type, msgspec.inspect.UnionType) else (key.type,)
    kinds = [member for member in members if not isinstance(member, msgspec.inspect.NoneType)]
    return TYPES.get(type(kinds[0]), "str")


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_has_the_default_that_its_specification_names(role: str) -> None:
    assert {name: option.get("default") for name, option in options(role).items()} == load(
        f"roles/{role}/defaults/main.yml"
    )


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_typed_and_described(role: str) -> None:
    for path, option in all_options(options(role)).items():
        assert option.get("type"), path
        assert str(option.get("description", "")).strip(), path


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_named_after_its_role(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in options(role))


def test_every_key_of_the_agent_is_reachable_and_no_other() -> None:
    keys = {path for path, key in KEYS.items() if not key.secret and key.name not in SECRET_FILES}
    assert set(config_options()) == keys - ELSEWHERE


def test_the_keys_have_the_types_that_the_agent_wants() -> None:
    assert {path: option["type"] for path, option in config_options().items()} == {
        path: ansible_type(KEYS[path]) for path in config_options()
    }


def test_every_secret_of_the_agent_has_a_variable_that_is_never_logged() -> None:
    secrets = {name: option for name, option in options("runqy_agent").items() if option.get("no_log")}
    wanted = {"api_key": "api_key", "git.token": "git_token", "redis.password": "redis_password"}
    wanted |= {"redis.sentinel.password": "sentinel_password", "git.ssh_key": "git_ssh_key"}
    assert {f"runqy_agent_{name}" for name in wanted.values()} <= set(secrets)


def test_the_roles_pages_are_as_they_would_be_written() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/role_readme.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_lock_file_holds_every_dependency() -> None:
    lock = (ROOT / "roles/runqy_agent/files/requirements.lock").read_text(encoding="utf-8")
    pinned = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    wanted = importlib.metadata.requires("runqy-agent") or []
    needed = [each for each in wanted if "extra" not in each or "extra == 'uvloop'" in each.replace('"', "'")]
    names = {re.split(r"[\[><=; ]", requirement)[0] for requirement in needed}
    assert "msgspec" in names
    assert names <= pinned


def test_collection_and_agent_have_one_version() -> None:
    from runqy_agent import __version__  # noqa: PLC0415

    assert load("galaxy.yml")["version"] == __version__


@pytest.mark.parametrize("playbook", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: path.name)
def test_every_playbook_begins_with_what_it_does_and_its_command(playbook: Path) -> None:
    head = [line for line in playbook.read_text(encoding="utf-8").splitlines()[1:12] if line.startswith("#")]
    assert len(head) > 2
    assert any(f"ansible-playbook playbooks/{playbook.name}" in line for line in head)
