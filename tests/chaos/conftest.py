"""Chaos: `make chaos`. Every test has a Redis of its own, waits most of the time, and runs beside the others.

CHAOS_SEEDS: the seeds of the random instants, separated by spaces, to repeat a run. Without it CHAOS_RUNS of them are
drawn (1 by default).
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("chaos.accounting", "chaos.journal")  # so that their asserts say what they found

from chaos.kit import FIGURES, Scene  # noqa: E402  # after the line above

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEDS = "CHAOS_SEEDS"
RUNS = "CHAOS_RUNS"


def pytest_configure(config: pytest.Config) -> None:
    # Once, in the process that starts the others: they all inherit it.
    if not os.environ.get(SEEDS):
        number = int(os.environ.get(RUNS) or 1)
        os.environ[SEEDS] = " ".join(str(random.randrange(1_000_000)) for _ in range(number))


def pytest_report_header() -> str:
    return f'chaos: to repeat this run: make chaos CHAOS_SEEDS="{os.environ[SEEDS]}"'


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", [int(seed) for seed in os.environ[SEEDS].split()])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("chaos: figures")
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == FIGURES and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}\n    {value}")


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture
def scene(tmp_path: Path, deployments: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene; a test may be given its Redis's ``appendfsync`` by indirect parameters."""
    scene = Scene(tmp_path, deployments, getattr(request, "param", "no"))
    yield scene
    scene.close()
