"""What pip, uv and Poetry make of a repository is what a deployment makes of it; or it is refused by name."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from repositories.layouts_pip import LAYOUTS as PIP
from repositories.layouts_projects import LAYOUTS as PROJECTS
from repository_kit import NOWHERE, Layout, Packages, Workshop, packages_in
from runqy_agent.errors import DeploymentError

if TYPE_CHECKING:
    from pathlib import Path

    from runqy_agent.deployment import Release

LAYOUTS = (*PIP, *PROJECTS)


# uv installs within a second, pip takes several: by default only some layouts are installed by pip.
EVERY = os.environ.get("RUNQY_INSTALLERS") == "all"
CASES = [(layout, "uv") for layout in LAYOUTS] + [(layout, "pip") for layout in (LAYOUTS if EVERY else LAYOUTS[::7])]


@pytest.fixture(params=[pytest.param(case, id=f"{case[0].name}, {case[1]}") for case in CASES])
def case(request: pytest.FixtureRequest) -> tuple[Layout, str]:
    chosen: tuple[Layout, str] = request.param
    return chosen


@pytest.fixture
def workshop(case: tuple[Layout, str], tmp_path: Path, index: str, python: Path) -> Workshop:
    return Workshop(tmp_path, index, python, case[0])


def test_it_runs_as_on_the_authors_machine_or_is_refused_by_name(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = workshop.layout
    workshop.fill(
        {
            **layout.files,
            "unrelated.md": "a\n",
            layout.code_path + "/main.py" if layout.code_path else "main.py": _main(layout),
        }
    )
    expected = workshop.expected()
    if layout.refused or isinstance(expected, str):
        with pytest.raises(DeploymentError, match=layout.refused or None) as refused:
            workshop.deploy()
        assert refused.value.commit, "an error names the commit"
        return
    first = workshop.deploy()
    check(first, expected, layout)
    with monkeypatch.context() as patch:
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
            patch.setenv(name, NOWHERE)
        assert workshop.deploy() == first, "a restart with nothing new needs no index"
        if not layout.local:
            workshop.repo.commit(unrelated_dot_md="b\n")
            assert workshop.deploy().environment == first.environment, "an unrelated file builds nothing"
    if layout.change:
        workshop.fill(layout.change)
        changed = workshop.expected()
        assert isinstance(changed, frozenset)
        assert changed != expected
        second = workshop.deploy()
        assert second.environment != first.environment
        check(second, changed, layout)


def _main(layout: Layout) -> str:
    return "".join(f"import {module}\n" for module in layout.imports) + "print('ran')\n"


def check(release: Release, expected: Packages, layout: Layout) -> None:
    assert packages_in(release.environment) == expected
    done = subprocess.run(
        [str(release.python), "main.py"], check=False, capture_output=True, text=True, cwd=release.code_dir
    )
    assert done.stdout == "ran\n", done.stderr
