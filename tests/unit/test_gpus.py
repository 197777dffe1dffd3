"""Which GPUs the processes get: those that nvidia-smi lists (a pretended one here), or CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from runqy_agent.process import gpus
from runqy_agent.process.gpus import find_gpus

if TYPE_CHECKING:
    from pathlib import Path


def found(directory: Path, script: str | None = None, **environ: str) -> list[str]:
    """What is found where ``nvidia-smi`` is this shell script; None for none."""
    directory.mkdir(exist_ok=True)
    if script is not None:
        program = directory / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return asyncio.run(find_gpus({"PATH": f"{directory}{os.pathsep}/usr/bin:/bin", **environ}))


def test_each_gpu_that_nvidia_smi_lists_is_one(tmp_path: Path) -> None:
    script = """test "$*" = "--query-gpu=index --format=csv,noheader" && printf '0\\n1\\n10\\n'"""
    assert found(tmp_path, script) == ["0", "1", "10"]


def test_a_host_without_nvidia_smi_has_none(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("2,3", ["2", "3"]), ("GPU-8932f937, MIG-1", ["GPU-8932f937", "MIG-1"]), ("", []), ("-1", []), ("NoDevFiles", [])],
)
def test_what_the_worker_was_given_counts_and_nothing_else(tmp_path: Path, visible: str, expected: list[str]) -> None:
    assert found(tmp_path, "printf '0\\n1\\n'", CUDA_VISIBLE_DEVICES=visible) == expected


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo 'NVIDIA-SMI has failed'; exit 1"])
def test_a_driver_in_trouble_means_no_gpu(tmp_path: Path, script: str) -> None:
    assert found(tmp_path, script) == []


def test_an_nvidia_smi_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "QUERY_SECONDS", 0.2)
    assert found(tmp_path, "exec sleep 60") == []
