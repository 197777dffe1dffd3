"""The house is built as its plan says."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import runqy_agent

ROOT = Path(runqy_agent.__file__).parent
FILES = {
    ".".join(("runqy_agent", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if "repository" not in path.relative_to(ROOT).parts  # sample code of a task author
}
LONGEST = 320
"""Lines of a file; one that gets longer holds two things."""
GENERATED = {"runqy_agent.broker.asynq_pb2"}


class Imports(ast.NodeVisitor):
    """Modules of the package that a module needs when it runs: not those for types alone."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        self.found |= {name if name in FILES else str(node.module) for name in names}


def imports_of(path: Path) -> set[str]:
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in visitor.found if name in FILES}


GRAPH = {name: imports_of(path) for name, path in FILES.items()}


def importers_of(*targets: str) -> set[str]:
    return {name for name, imports in GRAPH.items() for module in imports if is_below(module, *targets)}


def is_below(module: str, *packages: str) -> bool:
    return any(module == f"runqy_agent.{name}" or module.startswith(f"runqy_agent.{name}.") for name in packages)


def test_the_graph_of_imports_is_not_empty() -> None:
    assert "runqy_agent.loops.loop" in GRAPH["runqy_agent.loops.processor"]
    assert "runqy_agent.worker" in GRAPH["runqy_agent.service"]


def test_no_module_imports_itself_through_others() -> None:
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in finished:
            for imported in sorted(GRAPH[name]):
                visit(imported, (*path, name))
            finished.add(name)

    for name in GRAPH:
        visit(name, ())


def test_nothing_below_imports_the_worker_the_service_or_the_command_line() -> None:
    importers = {name for name in importers_of("worker") if not is_below(name, "demo")}
    assert importers <= {"runqy_agent", "runqy_agent.service"}
    assert importers_of("service") == {"runqy_agent.cli"}
    assert importers_of("cli") <= {"runqy_agent.__main__"}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("loops", ("worker", "assembly", "reporting", "deployment", "registration")),
        ("process", ("loops", "reporting", "deployment", "registration", "worker", "assembly")),
        ("broker", ("loops", "process", "reporting", "deployment", "worker", "assembly", "handlers")),
        ("deployment", ("loops", "process", "broker", "reporting", "worker", "assembly")),
        ("registration", ("loops", "process", "broker", "reporting", "worker", "assembly")),
        ("config", ("loops", "process", "broker", "reporting", "worker", "assembly", "registration", "deployment")),
        ("reporting", ("loops", "worker", "assembly", "deployment")),
    ],
)
def test_arrows_point_down(package: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        f"{name} imports {module}"
        for name, imports in GRAPH.items()
        if is_below(name, package)
        for module in imports
        if is_below(module, *forbidden)
    ]
    assert wrong == []


def test_only_the_worker_its_announcer_and_the_service_import_reporting() -> None:
    outside = {name for name in importers_of("reporting") if not is_below(name, "reporting", "demo")}
    assert outside <= {"runqy_agent.worker", "runqy_agent.announcer", "runqy_agent.service"}


@pytest.mark.parametrize("ground", ["errors", "clock", "outcome"])
def test_the_ground_imports_nothing(ground: str) -> None:
    assert GRAPH[f"runqy_agent.{ground}"] == set()


def test_only_the_demo_imports_the_demo() -> None:
    assert {name for name in importers_of("demo") if not is_below(name, "demo")} <= {"runqy_agent.cli"}


def test_no_file_is_so_long_that_it_holds_two_things() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items() if name not in GENERATED}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_there_is_no_file_for_things_without_a_place() -> None:
    assert [name for name in FILES if name.rpartition(".")[2] in {"utils", "util", "helpers", "common", "misc"}] == []


@pytest.mark.parametrize("name", runqy_agent.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    public = getattr(runqy_agent, name)
    is_class = inspect.isclass(public) and not hasattr(public, "__origin__")  # Python 3.10 takes an alias for one
    if is_class or inspect.isfunction(public):
        assert (public.__doc__ or "").strip()
        members = vars(public).items() if is_class else ()
        bare = [key for key, value in members if not key.startswith("_") and callable(value) and not value.__doc__]
        assert bare == []
    else:  # an alias or a constant: a text stands below it, or it is the version
        module = "_version" if name == "__version__" else "handlers"
        assert f"\n{name} = " in (ROOT / f"{module}.py").read_text(encoding="utf-8")
