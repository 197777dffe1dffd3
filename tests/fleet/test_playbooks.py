"""The playbooks on this machine, as a host without root: from a checkout and from the installed collection."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runqy_agent import __version__

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ANSIBLE_BIN") or Path(sys.executable).parent)
KEY = "SECRET-key-of-the-test-5c1f"
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


class Controller:
    """Runs Ansible with an inventory of this machine alone."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self.directory = directory
        self.prefix = directory / "prefix"
        self.collections = directory / "collections"
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "runqy_agent_scope": "user",
            "runqy_agent_service_manager": "none",
            "runqy_agent_prefix": str(self.prefix),
            "runqy_agent_python": sys.executable,
            "runqy_agent_server_url": "https://runqy.example.com",
            "runqy_agent_check_server": False,
            "runqy_agent_api_key": KEY,
            "runqy_agent_queues": ["inference"],
            "runqy_agent_min_free_mb": 10,
            "runqy_agent_build_dir": str(cache),
        }

    def run(self, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        inventory = self.directory / "inventory.json"
        hosts = {"here": self.variables | variables}
        inventory.write_text(json.dumps({"runqy_agents": {"hosts": hosts}}), encoding="utf-8")
        own = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        return subprocess.run(
            [BIN / words[0], *words[1:]],
            env={**os.environ, **own},
            cwd=self.directory,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )

    def play(self, playbook: str, *words: str, **variables: Any) -> str:
        """Play one of a checkout, which must succeed. Returns what it printed."""
        done = self.try_to_play(playbook, *words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_to_play(self, playbook: str, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        path = str(ROOT / "playbooks" / f"{playbook}.yml")
        return self.run("ansible-playbook", path, "-i", "inventory.json", "--diff", *words, **variables)

    def files(self) -> dict[str, bytes]:
        found = (path for path in (self.prefix / "etc").rglob("*") if path.is_file())
        return {str(path.relative_to(self.prefix)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the controller builds, once for all tests."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture
def controller(tmp_path: Path, cache: Path) -> Controller:
    return Controller(tmp_path, cache)


def changed(output: str) -> int:
    return sum(int(number) for number in re.findall(r"changed=(\d+)", output))


def test_a_deployment_is_checked_made_and_then_left_alone(controller: Controller) -> None:
    before = controller.play("deploy", "--check")
    assert re.search(r"here +- +0\.1\.0\S* +would be installed", before)
    assert not controller.prefix.exists()
    made = controller.play("deploy")
    assert re.search(r"here +- +0\.1\.0\S* +installed", made)
    version = subprocess.run(
        [controller.prefix / "bin/runqy-agent", "version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("runqy-agent ")
    files = controller.files()
    assert changed(controller.play("deploy", "--check")) == 0
    assert changed(controller.play("deploy")) == 0
    assert controller.files() == files
    assert KEY not in before + made
    assert KEY.encode() not in b"".join(text for name, text in files.items() if "credentials" not in name)


def wheels_of(controller: Controller, cache: Path) -> list[Path]:
    """What a deployment from the checkout sends to this machine."""
    controller.play("deploy", "--check")
    (archive,) = cache.glob("*/*.tar")
    shutil.unpack_archive(archive, controller.directory / "wheels")
    return sorted((controller.directory / "wheels").iterdir())


def package_index(wheels: list[Path], directory: Path) -> str:
    """A package index in files. Returns its address."""
    for wheel in wheels:
        project = directory / wheel.name.partition("-")[0].replace("_", "-").lower()
        project.mkdir(parents=True, exist_ok=True)
        link = f'<a href="{wheel.as_uri()}">{wheel.name}</a>'
        with (project / "index.html").open("a") as page:
            page.write(link)
    return directory.as_uri()


def test_a_version_comes_from_a_package_index_or_from_a_wheel_as_well(controller: Controller, tmp_path: Path) -> None:
    cache = tmp_path / "build"
    controller.variables["runqy_agent_build_dir"] = str(cache)
    wheels = wheels_of(controller, cache)
    index = package_index(wheels, tmp_path / "simple")
    source = {"runqy_agent_version": __version__, "runqy_agent_index_url": index}
    from_index = controller.play("deploy", runqy_agent_install_source="index", **source)
    assert re.search(rf"here +- +{re.escape(__version__)} +installed", from_index)
    (wheel,) = (each for each in wheels if each.name.startswith("runqy_agent-"))
    from_wheel = controller.play("deploy", runqy_agent_install_source="wheel", runqy_agent_wheel=str(wheel), **source)
    assert re.search(rf"here +{re.escape(__version__)} +{re.escape(__version__)}\+\w+ +upgraded", from_wheel)
    assert index not in from_index + from_wheel


def test_a_changed_setting_is_told_in_check_mode_made_and_undone_by_rollback(controller: Controller) -> None:
    controller.play("deploy")
    would = controller.play("deploy", "--check", runqy_agent_concurrency=7)
    assert "+  concurrency: 7" in would
    assert "would be reconfigured" in would
    config = controller.prefix / "etc/config.yml"
    assert "concurrency: 1" in config.read_text()
    assert "reconfigured" in controller.play("deploy", runqy_agent_concurrency=7)
    assert "concurrency: 7" in config.read_text()
    controller.play("rollback")
    assert "concurrency: 1" in config.read_text()
    controller.play("rollback")
    assert "concurrency: 7" in config.read_text()


def test_the_steps_can_be_made_one_by_one(controller: Controller) -> None:
    controller.play("deploy", "--tags", "install")
    assert [path.name[:6] for path in (controller.prefix / "versions").iterdir()] == ["0.1.0+"]
    assert not (controller.prefix / "current").exists()
    controller.play("deploy", "--tags", "configure")
    assert (controller.prefix / "etc/config.yml").exists()
    assert not (controller.prefix / "current").exists()
    controller.play("deploy", "--tags", "service")
    assert (controller.prefix / "current/bin/runqy-agent").exists()
    assert changed(controller.play("deploy")) == 0


def test_what_the_agent_refuses_leaves_the_host_as_it_was(controller: Controller) -> None:
    controller.play("deploy")
    files = controller.files()
    done = controller.try_to_play("deploy", runqy_agent_config={"worker": {"shutdown_timeout": "soon"}})
    assert done.returncode != 0
    assert "worker.shutdown_timeout" in done.stdout
    assert {name: text for name, text in controller.files().items() if "previous" not in name} == files
    assert changed(controller.play("deploy")) == 0


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"runqy_agent_api_key": ""}, "runqy_agent_api_key is empty"),
        ({"runqy_agent_server_url": ""}, "runqy_agent_server_url is empty"),
        ({"runqy_agent_server_url": "http://runqy.example.com"}, "runqy_agent_allow_http"),
        ({"runqy_agent_queues": []}, "runqy-agent has no queues"),
        ({"runqy_agent_version": "latest"}, "runqy_agent_version is latest"),
        ({"runqy_agent_version": "7.7.7"}, "the checkout holds 0.1.0"),
        ({"runqy_agent_install_source": "index"}, "it must name the version to install"),
        ({"runqy_agent_python": "/nowhere/python"}, "No Python that will do was found"),
        ({"runqy_agent_min_free_mb": 10**9}, "MiB of free space"),
        (
            {"runqy_agent_server_url": "http://127.0.0.1:9", "runqy_agent_check_server": True},
            "does not answer from the host",
        ),
        ({"runqy_agent_config": {"worker": {"concurency": 4}}}, "concurency"),
        ({"runqy_agent_config": {"server": {"api_key": "x"}}}, "api_key"),
        ({"runqy_agent_instances": [{"name": "heal", "queues": ["a"]}]}, "the name heal will not do"),
        ({"runqy_agent_environment": {"A B": "c"}}, "A B will not do"),
    ],
)
def test_wrong_variables_are_refused_with_what_to_do_before_anything_changes(
    controller: Controller, variables: dict[str, Any], says: str
) -> None:
    done = controller.try_to_play("deploy", **variables)
    assert done.returncode != 0
    assert says in done.stdout
    assert not controller.prefix.exists()
    assert KEY not in done.stdout + done.stderr


def test_uninstalling_removes_what_was_installed_and_keeps_the_data_until_it_is_purged(controller: Controller) -> None:
    controller.play("deploy")
    (controller.prefix / "data/default/kept").touch()
    controller.play("uninstall")
    assert [path.name for path in controller.prefix.iterdir()] == ["data"]
    assert changed(controller.play("uninstall")) == 0
    controller.play("uninstall", "-e", "runqy_agent_purge=true")
    assert not controller.prefix.exists()


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_the_example_of_an_inventory_fits_every_playbook(controller: Controller, playbook: str) -> None:
    password = controller.directory / "password"
    password.write_text("example\n")
    inventory = ["-i", str(ROOT / "inventory.example"), "--vault-password-file", str(password)]
    done = controller.run("ansible-playbook", str(ROOT / "playbooks" / f"{playbook}.yml"), *inventory, "--syntax-check")
    assert done.returncode == 0, done.stderr


def test_the_example_begins_with_the_canary_and_its_key_is_in_the_vault(controller: Controller) -> None:
    password = controller.directory / "password"
    password.write_text("example\n")
    inventory = ["-i", str(ROOT / "inventory.example"), "--vault-password-file", str(password)]
    hosts = controller.run("ansible", "runqy_agents", *inventory, "--list-hosts").stdout.split()
    assert hosts[2] == "worker-canary.example.com"
    listed = controller.run("ansible-inventory", *inventory, "--host", "worker-gpu-01.example.com")
    assert json.loads(listed.stdout)["runqy_agent_api_key"] == "{{ vault_runqy_agent_api_key }}"
    assert (ROOT / "inventory.example/group_vars/runqy_agents/vault.yml").read_text().startswith("$ANSIBLE_VAULT;")


def test_the_collection_builds_installs_and_deploys_elsewhere(controller: Controller) -> None:
    built = controller.run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", "built")
    assert built.returncode == 0, built.stderr
    (tarball,) = (controller.directory / "built").iterdir()
    assert tarball.stat().st_size < 4 * 2**20
    install = ["collection", "install", str(tarball), "-p", str(controller.collections), "--offline"]
    installed = controller.run("ansible-galaxy", *install)
    assert installed.returncode == 0, installed.stderr
    for playbook in PLAYBOOKS:
        done = controller.run("ansible-playbook", f"runqy.fleet.{playbook}", "-i", "inventory.json", "--syntax-check")
        assert done.returncode == 0, done.stderr
    deployed = controller.run("ansible-playbook", "runqy.fleet.deploy", "-i", "inventory.json", "--check")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert "would be installed" in deployed.stdout
