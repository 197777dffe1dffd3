from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """What is logged about each of the thousands of inputs is not looked at."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
