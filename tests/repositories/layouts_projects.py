"""Repositories of uv's and Poetry's users: projects, locks and workspaces."""

from __future__ import annotations

from repository_kit import Layout, project

LAYOUTS = (
    Layout(
        "static dependencies of a project that is not packaged",
        {"pyproject.toml": project("x", "alpha==1.0", "beta")},
        oracle="uv",
        change={"pyproject.toml": project("x", "alpha==1.0", "beta==1.0")},
    ),
    Layout(
        "a uv lock",
        {"pyproject.toml": project("x", "alpha<2", "beta")},
        oracle="uv",
        lock="",
        change={"pyproject.toml": project("x", "alpha>=2", "beta")},
        imports=("alpha", "beta"),
    ),
    Layout(
        "a uv lock with a group and an extra, which are not installed",
        {
            "pyproject.toml": project(
                "x",
                "alpha",
                more='[dependency-groups]\ndev = ["beta"]\n[project.optional-dependencies]\ngpu = ["gamma"]\n',
            )
        },
        oracle="uv",
        lock="",
        imports=("alpha",),
    ),
)
