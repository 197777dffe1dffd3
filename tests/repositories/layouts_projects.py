"""Repositories of uv's and Poetry's users: projects, locks and workspaces."""

from __future__ import annotations

from repository_kit import BACKEND, BUILD_SYSTEM, Layout, package, project

NOT_PACKAGED = "[tool.uv]\npackage = false\n"
WORKSPACE = '[tool.uv.workspace]\nmembers = ["libs/*", "jobs"]\n'
FROM_WORKSPACE = "[tool.uv.sources]\nhelper = { workspace = true }\n"
OWN_INDEX = '[[tool.uv.index]]\nname = "own"\nurl = "@OWN@"\nexplicit = true\n'
EXTRAS = '[project.optional-dependencies]\ngpu = ["beta==1.0"]  # extra\n'
GROUPS = '[dependency-groups]\ndev = ["gamma"]\njobs = ["gamma==1.0"]\n'
POETRY = "[tool.poetry]\npackage-mode = false\n"
POETRY_SOURCE = '[[tool.poetry.source]]\nname = "main"\nurl = "@INDEX@"\npriority = "primary"\n'
POETRY += POETRY_SOURCE
POETRY_OWN = '[[tool.poetry.source]]\nname = "own"\nurl = "@OWN@"\npriority = "explicit"\n'
POETRY_OPTIONAL = 'alpha = "*"\nbeta = { version = "<2", optional = true }'
POETRY_EXTRAS = '[tool.poetry.extras]\ngpu = ["beta"]\n[tool.poetry.group.jobs.dependencies]\ngamma = "1.0"\n'


def poetry(dependencies: str, more: str = "") -> str:
    """A pyproject.toml with Poetry's own tables."""
    return f'{POETRY}{more}[tool.poetry.dependencies]\npython = "^3.10"\n{dependencies}\n'


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
        {"pyproject.toml": project("x", "alpha", more=EXTRAS + GROUPS)},
        oracle="uv",
        lock="",
        imports=("alpha",),
    ),
    Layout(
        "a uv lock with a group and an extra, which the host chooses",
        {"pyproject.toml": project("x", "alpha", more=EXTRAS + GROUPS)},
        oracle="uv",
        arguments=("--extra", "gpu", "--group", "jobs"),
        lock="",
        settings={"extras": ["gpu"], "groups": ["jobs"]},
        imports=("alpha", "beta", "gamma"),
    ),
    Layout(
        "extras and groups without a lock",
        {"pyproject.toml": project("x", "alpha", more=EXTRAS + GROUPS)},
        oracle="uv",
        arguments=("--extra", "gpu", "--group", "jobs"),
        settings={"extras": ["gpu"], "groups": ["jobs"]},
        imports=("alpha", "beta", "gamma"),
    ),
    Layout(
        "an extra that there is not",
        {"pyproject.toml": project("x", "alpha", more=EXTRAS)},
        oracle="uv",
        arguments=("--extra", "nonsense"),
        settings={"extras": ["nonsense"]},
        refused="no extra nonsense .it has gpu",
    ),
    Layout(
        "a lock that does not fit",
        {
            "pyproject.toml": project("x", "alpha<2"),
            "uv.lock": 'version = 1\nrequires-python = ">=3.10"\n[[package]]\nname = "x"\nversion = "1.0"\n'
            'source = { virtual = "." }\n',
        },
        oracle="uv",
        refused="uv.lock does not fit .* .alpha.: run `uv lock`",
    ),
    # Names that have a source: a foreign package of the same name is in the index.
    Layout(
        "a workspace's member with the workspace's lock",
        {
            "pyproject.toml": project("root", more=WORKSPACE + FROM_WORKSPACE),
            "jobs/pyproject.toml": project("jobs", "helper", "alpha<2"),
            **package("libs/helper/", "helper", "beta"),
        },
        code_path="jobs",
        oracle="uv",
        lock="",
        local=True,
        change={"jobs/pyproject.toml": project("jobs", "helper", "alpha>=2")},
        imports=("helper", "alpha", "beta"),
    ),
    Layout(
        "a workspace's member without a lock",
        {
            "pyproject.toml": project("root", more=WORKSPACE),
            "jobs/pyproject.toml": project("jobs", "helper", more=FROM_WORKSPACE),
            **package("libs/helper/", "helper", "alpha"),
        },
        code_path="jobs",
        oracle="uv",
        local=True,
        imports=("helper", "alpha"),
    ),
    Layout(
        "the root of a workspace with its lock",
        {
            "pyproject.toml": project("root", "helper", more=WORKSPACE + FROM_WORKSPACE),
            "jobs/pyproject.toml": project("jobs", "gamma"),
            **package("libs/helper/", "helper"),
        },
        oracle="uv",
        lock="",
        local=True,
        imports=("helper",),
    ),
    Layout(
        "a member that needs nothing of the repository is not built anew with every commit",
        {
            "pyproject.toml": project("root", "helper", more=WORKSPACE + FROM_WORKSPACE),
            "jobs/pyproject.toml": project("jobs", "gamma"),
            **package("libs/helper/", "helper"),
        },
        code_path="jobs",
        oracle="uv",
        lock="",
        imports=("gamma",),
    ),
    Layout(
        "a path as a source, without a lock",
        {
            "jobs/pyproject.toml": project(
                "jobs", "helper", more='[tool.uv.sources]\nhelper = { path = "../libs/helper" }\n'
            ),
            **package("libs/helper/", "helper", "alpha"),
        },
        code_path="jobs",
        oracle="uv",
        local=True,
        imports=("helper", "alpha"),
    ),
    Layout(
        "a path as a source that leads out of the repository",
        {
            "pyproject.toml": project(
                "jobs", "helper", more='[tool.uv.sources]\nhelper = { path = "../../../helper" }\n'
            )
        },
        oracle="uv",
    ),
    Layout(
        "an index of its own as a source, without a lock",
        {
            "pyproject.toml": project(
                "x", "helper", "alpha", more=OWN_INDEX + '[tool.uv.sources]\nhelper = { index = "own" }\n'
            )
        },
        oracle="uv",
        imports=("helper", "alpha"),
    ),
    Layout(
        "an index of its own as a source, with a lock",
        {
            "pyproject.toml": project(
                "x", "helper", "alpha", more=OWN_INDEX + '[tool.uv.sources]\nhelper = { index = "own" }\n'
            )
        },
        oracle="uv",
        lock="",
        imports=("helper", "alpha"),
    ),
    Layout(
        "an index of its own and a path, so that not everything has a hash",
        {
            "pyproject.toml": project(
                "x",
                "helper",
                "inner",
                more=OWN_INDEX + '[tool.uv.sources]\nhelper = { index = "own" }\ninner = { path = "libs/inner" }\n',
            ),
            **package("libs/inner/", "inner", "alpha"),
        },
        oracle="uv",
        lock="",
        local=True,
        imports=("helper", "inner", "alpha"),
    ),
    Layout(
        "a requirements file that installs a project with sources",
        {
            "requirements.txt": "-e .\n",
            **package("", "inner", "helper", more='[tool.uv.sources]\nhelper = { path = "libs/helper" }\n'),
            **package("libs/helper/", "helper"),
        },
        oracle="uv",
        local=True,
        imports=("inner", "helper"),
    ),
    # Packaged projects are installed themselves.
    Layout(
        "a package in a src layout",
        {
            "pyproject.toml": project("inner", "alpha==1.0", more=BUILD_SYSTEM),
            **{f"src/{name}": text for name, text in package("", "inner").items() if name == "inner.py"},
            **{name: text for name, text in package("", "inner").items() if name == "backend.py"},
        },
        arguments=(".",),
        local=True,
        imports=("inner", "alpha"),
    ),
    Layout(
        "a package with extras",
        package("", "inner", "alpha", more=EXTRAS),
        arguments=(".[gpu]",),
        settings={"extras": ["gpu"]},
        local=True,
        imports=("inner", "alpha", "beta"),
    ),
    Layout(
        "a package with a uv lock",
        package("", "inner", "alpha<2"),
        oracle="uv",
        lock="",
        local=True,
        change=package("", "inner", "alpha>=2"),
        imports=("inner", "alpha"),
    ),
    Layout(
        "a package that uv is told not to install",
        package("", "inner", "alpha", more=NOT_PACKAGED),
        oracle="uv",
        imports=("alpha",),
    ),
    Layout(
        "dynamic dependencies at the root below a code path",
        {
            **package("", "inner", more=""),
            "pyproject.toml": project("inner", more=BUILD_SYSTEM).replace(
                "dependencies = []", 'dynamic = ["dependencies"]'
            ),
            "needs.txt": "alpha==1.0",
            "jobs/README.md": "",
        },
        code_path="jobs",
        where="",
        arguments=(".",),
        local=True,
        change={"needs.txt": "alpha==2.0"},
        imports=("inner", "alpha"),
    ),
    Layout(
        "the file that the server names",
        {"jobs/requirements/prod.txt": "alpha==1.0\n", "jobs/requirements.txt": "beta\n"},
        code_path="jobs",
        arguments=("-r", "requirements/prod.txt"),
        requirements_file="requirements/prod.txt",
        change={"jobs/requirements/prod.txt": "alpha==2.0\n"},
        imports=("alpha",),
    ),
    Layout(
        "a file that the server names and that is not there",
        {"requirements.txt": "beta\n"},
        arguments=("-r", "requirements/prod.txt"),
        requirements_file="requirements/prod.txt",
        refused="requirements/prod.txt",
    ),
    # Poetry.
    Layout(
        "a Poetry lock",
        {"pyproject.toml": poetry('alpha = "<2"')},
        oracle="poetry",
        lock="",
        change={"pyproject.toml": poetry('alpha = ">=2"')},
        imports=("alpha",),
    ),
    Layout(
        "a Poetry lock with an explicit source",
        {"pyproject.toml": poetry('alpha = "*"\nhelper = { version = "*", source = "own" }', POETRY_OWN)},
        oracle="poetry",
        lock="",
        imports=("alpha", "helper"),
    ),
    Layout(
        "an explicit source of Poetry without a lock",
        {"pyproject.toml": poetry('alpha = "*"\nhelper = { version = "*", source = "own" }', POETRY_OWN)},
        oracle="poetry",
        refused="helper from the source own .* run `poetry lock`",
    ),
    Layout(
        "an explicit source of Poetry that nothing uses is no index for others",
        {"pyproject.toml": poetry('helper = "*"', POETRY_OWN)},
        oracle="poetry",
        imports=("helper",),
    ),
    Layout(
        "extras and groups of Poetry without a lock",
        {"pyproject.toml": poetry(POETRY_OPTIONAL, POETRY_EXTRAS)},
        oracle="poetry",
        arguments=("--only", "main,jobs", "--extras", "gpu"),
        settings={"extras": ["gpu"], "groups": ["jobs"]},
        imports=("alpha", "beta", "gamma"),
    ),
    Layout(
        "extras and groups of a Poetry lock",
        {"pyproject.toml": poetry(POETRY_OPTIONAL, POETRY_EXTRAS)},
        oracle="poetry",
        arguments=("--only", "main,jobs", "--extras", "gpu"),
        lock="",
        settings={"extras": ["gpu"], "groups": ["jobs"]},
        imports=("alpha", "beta", "gamma"),
    ),
    Layout(
        "an extra of Poetry that there is not",
        {"pyproject.toml": poetry(POETRY_OPTIONAL, POETRY_EXTRAS)},
        oracle="poetry",
        settings={"extras": ["nonsense"]},
        refused="no extra nonsense .it has gpu",
    ),
    Layout(
        "a package of Poetry in a src layout",
        {
            "pyproject.toml": project("inner", "alpha<2", more=BUILD_SYSTEM + POETRY_SOURCE),
            "backend.py": BACKEND,
            "src/inner/__init__.py": "",
        },
        oracle="poetry",
        lock="",
        local=True,
        imports=("inner", "alpha"),
    ),
)
