"""The soak: `make soak`, with its length and its seed from the environment."""

from __future__ import annotations

import os
import random

import pytest

pytest.register_assert_rewrite("chaos.journal")  # so that its asserts say what they found

SECONDS = float(os.environ.get("SOAK_SECONDS") or 60)
END_SECONDS = 600
"""For what is left when the trouble is over, on a slow machine."""


def pytest_configure() -> None:
    if not os.environ.get("SOAK_SEED"):
        os.environ["SOAK_SEED"] = str(random.randrange(1_000_000))


def pytest_report_header() -> str:
    return f"soak: to repeat this run: make soak SOAK_SECONDS={SECONDS:g} SOAK_SEED={os.environ['SOAK_SEED']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "soak":
            item.add_marker(pytest.mark.timeout(SECONDS + END_SECONDS))


@pytest.fixture
def soak_seconds() -> float:
    return SECONDS


@pytest.fixture
def soak_seed() -> int:
    return int(os.environ["SOAK_SEED"])
