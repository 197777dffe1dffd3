"""The Python programs that the role sends to hosts, or runs on the controller, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

FILES = Path(__file__).resolve().parents[1] / "roles/runqy_agent/files"


def load(name: str) -> Any:
    """One of them."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
