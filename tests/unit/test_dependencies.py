"""Which dependency file counts, what an environment depends on, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runqy_agent.config.settings import DeploymentSettings
from runqy_agent.deployment.dependencies import Dependencies, find_dependencies
from runqy_agent.deployment.environment import plan_environment
from runqy_agent.deployment.interpreter import Interpreter
from runqy_agent.deployment.requirements import MissingPathError
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = (3, 11, 4)
PROJECT = '[project]\nname = "x"\nversion = "1"\n'


def find(root: Path, files: dict[str, str], code_path: str = "") -> Dependencies:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (root / code_path).mkdir(parents=True, exist_ok=True)
    return find_dependencies(root, code_path, PYTHON)


def test_the_nearest_directory_wins_and_requirements_come_before_pyproject(tmp_path: Path) -> None:
    assert find(tmp_path, {}, "a/b").kind == "none"
    assert find(tmp_path, {"pyproject.toml": PROJECT}, "a/b").directory == tmp_path
    assert find(tmp_path, {"requirements.txt": "x\n"}, "a/b").kind == "requirements"
    assert find(tmp_path, {"a/pyproject.toml": "[tool.ruff]\n"}, "a/b").directory == tmp_path
    assert find(tmp_path, {"a/pyproject.toml": PROJECT}, "a/b").directory == tmp_path / "a"
    assert find(tmp_path, {"a/b/requirements.txt": ""}, "a/b").empty


def test_everything_that_a_requirements_file_pulls_in_counts(tmp_path: Path) -> None:
    files = {
        "requirements.txt": "\ufeffnumpy>=2  # fast\n-rmore/base.txt\n-c \\\n  constraints.txt\n",
        "more/base.txt": "--requirement=again.txt\n# -r never.txt\n",
        "more/again.txt": "--constraint '../with blank.txt'\n",
        "constraints.txt": "numpy<3\n",
        "with blank.txt": "",
    }
    found = find(tmp_path, files)
    assert set(found.inputs) == set(files)
    assert not found.local
    assert not found.empty


@pytest.mark.parametrize(
    "line",
    [
        ".",
        "./lib",
        "../lib[x]",
        "-e .",
        "-e ./lib",
        "--editable=lib",
        "file:///srv/x.whl",
        "x @ file:///srv/x.whl",
        "x.whl",
        "lib/x-1.0.tar.gz",
        "/srv/x",
        "lib",
        ".[gpu]",
        "-f wheels",
        ". ; python_version > '3'",
    ],
)
def test_local_paths_are_noticed(tmp_path: Path, line: str) -> None:
    (tmp_path / "jobs" / "lib").mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "jobs" / "wheels").mkdir()
    (tmp_path / "jobs" / "x.whl").touch()
    (tmp_path / "jobs" / "lib" / "x-1.0.tar.gz").touch()
    found = find(tmp_path, {"jobs/requirements.txt": f"{line}\n"}, "jobs")
    assert found.local is (line != "lib"), "a bare name is a package of the index"


@pytest.mark.parametrize(
    "line",
    [
        "numpy==2.0",
        "x[y]>=1; python_version<'3.9'",
        "git+https://git.example.com/x",
        "x @ https://example.com/x.whl",
        "-e git+https://git.example.com/x#egg=x",
        "--find-links https://example.com/wheels",
        "-i https://example.com",
        "numpy==2.0 --hash=sha256:00",
        "-r https://example.com/requirements.txt",
    ],
)
def test_what_comes_from_elsewhere_is_not_local(tmp_path: Path, line: str) -> None:
    assert not find(tmp_path, {"requirements.txt": f"{line}\n"}).local


def test_paths_that_are_missing_or_outside_are_refused(tmp_path: Path) -> None:
    for line in ("-r none.txt", "-c ./none.txt", "-e ./none.txt"):
        with pytest.raises(MissingPathError, match=r"none\.txt") as missing:
            find(tmp_path, {"requirements.txt": f"{line}\n"})
        assert missing.value.path == "none.txt"
    (tmp_path / "again.txt").write_text("-r requirements.txt\n", encoding="utf-8")
    with pytest.raises(EnvironmentBuildError, match="includes itself"):
        find(tmp_path, {"requirements.txt": "-r again.txt\n"})
    for line in ("-r ../x.txt", "-r /etc/hostname", "-c ../../x.txt"):
        with pytest.raises(EnvironmentBuildError, match="leads outside"):
            find(tmp_path, {"requirements.txt": f"{line}\n"})


def test_static_dependencies_are_taken_and_dynamic_ones_need_the_project(tmp_path: Path) -> None:
    found = find(tmp_path, {"pyproject.toml": f'{PROJECT}dependencies = ["numpy>=2", "x"]\n'})
    assert (found.kind, found.packages, found.local) == ("pyproject", ("numpy>=2", "x"), False)
    assert find(tmp_path, {"pyproject.toml": f"{PROJECT}dependencies = []\n"}).empty
    found = find(tmp_path, {"pyproject.toml": f'{PROJECT}dynamic = ["dependencies"]\n'})
    assert (found.kind, found.local, found.empty) == ("project", True, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[project", "no valid TOML"),
        (f'{PROJECT}dependencies = "numpy"\n', "must be a list"),
        (f'{PROJECT}dependencies = ["--index-url=https://example.com"]\n', "must be a list"),
        (f'{PROJECT}requires-python = ">=3.12"\n', r"requires Python >=3.12, but the interpreter is 3\.11\.4"),
        (f'{PROJECT}requires-python = "<3.11"\n', "set deployment.python"),
    ],
)
def test_a_pyproject_that_cannot_be_used_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(EnvironmentBuildError, match=message):
        find(tmp_path, {"pyproject.toml": content})


LOCKED = """\
version = 1
[[package]]
name = "numpy"
version = "2.1"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "x"
version = "1"
source = { virtual = "." }
[package.metadata]
requires-dist = [
    { name = "numpy", extras = ["a-b"], specifier = ">=2,<3" },
    { name = "torch", marker = "extra == 'gpu'" },
]
"""


@pytest.mark.parametrize(
    ("dependencies", "fits"),
    [
        ('"numpy[a-b]>=2,<3"', True),
        ("\"NumPy [A_b] (<3, >= 2) ; python_version > '3'\"", True),
        ('"numpy[a-b]>=2.0,<3.0"', True),  # the same versions, written in another way
        ('"numpy[a-b]>=2.0rc1,<3"', False),
        ('"numpy[a-b]>=2,<4"', False),
        ('"numpy>=2,<3"', False),
        ('"numpy[a-b]>=2,<3", "scipy"', False),
        ("", False),
    ],
)
def test_a_uv_lock_must_fit_the_dependencies_beside_it(tmp_path: Path, dependencies: str, *, fits: bool) -> None:
    files = {"pyproject.toml": f"{PROJECT}dependencies = [{dependencies}]\n", "uv.lock": LOCKED}
    if fits:
        found = find(tmp_path, files)
        assert (found.kind, found.local, set(found.indexes.values())) == ("uv", False, {""})
    else:
        with pytest.raises(EnvironmentBuildError, match=r"uv\.lock does not fit .*run `uv lock` and commit both"):
            find(tmp_path, files)


def test_what_a_lock_holds_decides_about_indexes_and_local_code(tmp_path: Path) -> None:
    files = {"pyproject.toml": f"{PROJECT}dependencies = []\n", "uv.lock": "version = 1\n"}
    package = '[[package]]\nname = "y"\nversion = "1"\nsource = {{ {} }}\n'
    plain = find(tmp_path, files)
    assert not plain.local
    index = find(tmp_path, {"uv.lock": package.format('registry = "https://example.com/simple"')})
    assert index.indexes == {("y", "1"): "https://example.com/simple"}
    fetched = find(tmp_path, {"uv.lock": package.format('git = "https://example.com/y?rev=1#0"')})
    assert not fetched.local
    (tmp_path / "lib").mkdir()
    own = find(tmp_path, {"uv.lock": package.format('editable = "lib"')})
    assert own.local
    assert plain.inputs != index.inputs
    with pytest.raises(MissingPathError) as missing:
        find(tmp_path, {"uv.lock": package.format('directory = "libs/y"')})
    assert missing.value.path == "libs/y"
    with pytest.raises(EnvironmentBuildError, match="leads outside"):
        find(tmp_path, {"uv.lock": package.format('directory = "../../y"')})
    with pytest.raises(EnvironmentBuildError, match=r"uv\.lock is no valid TOML"):
        find(tmp_path, {"uv.lock": "[["})


def test_a_poetry_project_is_read_with_its_lock_if_it_has_one(tmp_path: Path) -> None:
    project = '[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\npython = "^3.11"\nx = "^1"\n'
    found = find(tmp_path, {"pyproject.toml": project})
    assert (found.kind, found.local, found.empty) == ("poetry", False, False)
    changed = find(tmp_path, {"pyproject.toml": project + 'y = { path = "." }\n'})
    assert (changed.local, changed.inputs != found.inputs) == (True, True)
    with pytest.raises(MissingPathError):
        find(tmp_path, {"pyproject.toml": project + 'y = [{ path = "none" }]\n'})
    files = {"pyproject.toml": project, "poetry.lock": '[[package]]\nname = "x"\nversion = "1"\n'}
    locked = find(tmp_path, files)
    assert (locked.kind, locked.local) == ("poetry-lock", False)
    source = '[package.source]\ntype = "{}"\nurl = "."\n'
    for kind, local, index in (("git", False, ""), ("directory", True, ""), ("legacy", False, ".")):
        other = find(tmp_path, {"poetry.lock": files["poetry.lock"] + source.format(kind)})
        assert (other.local, other.indexes) == (local, {("x", "1"): index})
        assert other.inputs != locked.inputs
    with_project = PROJECT + 'dynamic = ["dependencies"]\n' + project
    assert find(tmp_path, {"pyproject.toml": with_project}).kind == "poetry-lock"
    (tmp_path / "poetry.lock").unlink()
    assert find(tmp_path, {"pyproject.toml": with_project}).kind == "poetry"


def test_a_lock_of_a_directory_above_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    found = find(tmp_path, {"uv.lock": LOCKED, "member/pyproject.toml": PROJECT}, "member")
    assert found.kind == "pyproject"
    assert "uv.lock is not read" in found.notes[0]


@pytest.mark.parametrize(
    ("specifier", "allowed"),
    [
        ("", True),
        (">=3.11", True),
        (">=3.8,<4", True),
        ("~=3.10", True),
        ("~=3.10.0", False),
        ("==3.11.*", True),
        ("==3.12.*", False),
        ("!=3.11.4", False),
        ("==3.11", False),
        (">3.11", True),
        ("<=3.11", False),
        ("===3.11.4", True),
        ("===3.11", False),
        (">=3.11.4.0", True),
        (">=3.11.4.1", False),
        (">=3.11.0rc1", True),
        (">=3.12.0a1", False),
        ("<3.12.0a1", True),
        ("===x", False),
        ("three", False),
    ],
)
def test_requires_python_is_read_as_pip_reads_it(tmp_path: Path, specifier: str, *, allowed: bool) -> None:
    content = {"pyproject.toml": f'{PROJECT}requires-python = "{specifier}"\n'}
    if allowed:
        assert find(tmp_path, content).kind == "pyproject"
    else:
        with pytest.raises(EnvironmentBuildError):
            find(tmp_path, content)


def test_the_key_changes_with_all_that_matters_and_with_nothing_else(tmp_path: Path) -> None:
    interpreter = Interpreter("/usr/bin/python3", PYTHON, "cpython-311", ensurepip=True)
    newer = Interpreter("/usr/bin/python3", (3, 11, 5), "cpython-311", ensurepip=True)
    plain = find(tmp_path, {"requirements.txt": "x==1\n"})
    other = find(tmp_path, {"requirements.txt": "x==2\n"})
    local = find(tmp_path, {"requirements.txt": ".\n"})

    def key(
        dependencies: Dependencies,
        *,
        by: Interpreter = interpreter,
        origin: str = "q 1",
        system: bool = True,
        offline: bool = False,
    ) -> str:
        options = DeploymentSettings(use_system_site_packages=system, offline=offline)
        return plan_environment(options, by, dependencies, origin).key

    assert key(plain) == key(plain, origin="q 2")
    distinct = {
        key(plain),
        key(other),
        key(plain, by=newer),
        key(plain, system=False),
        key(plain, offline=True),
        key(local),
        key(local, origin="q 2"),
    }
    assert len(distinct) == 7
