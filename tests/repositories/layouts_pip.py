"""Repositories whose packages pip installs: requirement files in all forms that its documentation names."""

from __future__ import annotations

from repository_kit import BACKEND, BUILD_SYSTEM, Layout, package, project

PINNED = "alpha==1.0\n"


def _nested(first: str, **files: str) -> dict[str, str | bytes]:
    return {
        "requirements.txt": first,
        **{name.replace("_dot_", ".").replace("__", "/"): text for name, text in files.items()},
    }


LAYOUTS = (
    Layout(
        "pins",
        {"requirements.txt": "alpha==1.0\nbeta >= 1, < 2 # why\n"},
        change={"requirements.txt": PINNED},
        imports=("alpha",),
    ),
    Layout("the newest", {"requirements.txt": "alpha\n"}, imports=("alpha",)),
    Layout(
        "nothing but comments", {"requirements.txt": "# none yet\n\n   # really\n"}, change={"requirements.txt": PINNED}
    ),
    Layout("a byte order mark", {"requirements.txt": "\ufeffalpha==1.0\n".encode()}),
    Layout("Windows line ends", {"requirements.txt": b"alpha==1.0\r\nbeta==1.0\r\n"}),
    Layout("a line in two parts", {"requirements.txt": "alpha \\\n  ==1.0\n"}),
    Layout("markers", {"requirements.txt": "alpha==1.0 ; python_version < '3'\nbeta==1.0;python_version>='3'\n"}),
    Layout(
        "an included file beside it",
        _nested("-r base.txt\n", base_dot_txt=PINNED),
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout(
        "an included file outside of the code path",
        {"jobs/requirements.txt": "-r ../base.txt\nbeta\n", "base.txt": PINNED},
        code_path="jobs",
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout("included in a long form", _nested("--requirement=more/base.txt\n", more__base_dot_txt=PINNED)),
    Layout("included without a space", _nested("-rbase.txt\n", base_dot_txt=PINNED)),
    Layout(
        "constraints",
        _nested("alpha\n-c limits.txt\n", limits_dot_txt="alpha<2\nbeta==1.0\n"),
        change={"limits.txt": "alpha<3\n"},
    ),
    Layout(
        "an included file includes another beside itself",
        _nested("-r more/base.txt\n", more__base_dot_txt="-r again.txt\n", more__again_dot_txt=PINNED),
        change={"more/again.txt": "alpha==2.0\n"},
    ),
    Layout("a file that is not there", _nested("-r none.txt\n")),
    Layout("a package that is not there", {"requirements.txt": "nosuchpackage\n"}),
    Layout("two pins that contradict", {"requirements.txt": "alpha==1.0\nalpha==2.0\n"}),
    Layout("hashes that do not fit", {"requirements.txt": "alpha==1.0 --hash=sha256:" + "0" * 64 + "\n"}),
    Layout(
        "an editable package",
        {"requirements.txt": "-e ./libs/inner\n", **package("libs/inner/", "inner")},
        imports=("inner",),
        local=True,
    ),
    Layout(
        "a local package with needs of its own",
        {"requirements.txt": "./libs/inner\n", **package("libs/inner/", "inner", "alpha==1.0")},
        change=package("libs/inner/", "inner", "alpha==2.0"),
        imports=("inner", "alpha"),
        local=True,
    ),
    Layout(
        "requirements before pyproject",
        {"pyproject.toml": project("x", "alpha==1.0"), "requirements.txt": "beta\n"},
    ),
    Layout(
        "requirements above the code path",
        {"requirements.txt": PINNED, "jobs/deep/main.py": ""},
        code_path="jobs/deep",
        where="",
        change={"requirements.txt": "alpha==2.0\n"},
    ),
    # What only pip reads in this way, while uv reads it differently or not at all.
    Layout(
        "UTF-16, as PowerShell writes it",
        {"requirements.txt": "-r base.txt\r\n".encode("utf-16"), "base.txt": PINNED},
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout("UTF-16 that begins with the other byte", {"requirements.txt": "\ufeffalpha==1.0\n".encode("utf-16-be")}),
    Layout(
        "a coding comment", {"requirements.txt": "# -*- coding: latin-1 -*-\nalpha==1.0 # größer\n".encode("latin-1")}
    ),
    Layout("a coding that there is not", {"requirements.txt": b"# coding: nonsense\nalpha\n"}),
    Layout(
        "old Macintosh line ends",
        {"requirements.txt": b"-r base.txt\rbeta\r", "base.txt": PINNED},
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout(
        "a form feed",
        {"requirements.txt": "beta\n\f-r base.txt\f\n", "base.txt": PINNED},
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout("a comment that ends in a backslash", {"requirements.txt": "# C:\\temp\\\nalpha==1.0\n"}),
    Layout("a backslash at the end of the file", {"requirements.txt": "alpha==1.0\\\n"}),
    Layout(
        "an index and an included file on one line",
        {"requirements.txt": "-i @INDEX@ -r base.txt\n", "base.txt": PINNED},
        change={"base.txt": "alpha==2.0\n"},
    ),
    Layout(
        "an included file and an index on one line",
        {"requirements.txt": "-r base.txt --extra-index-url @INDEX@\n", "base.txt": PINNED},
    ),
    Layout("constraints alone", _nested("-c limits.txt\n", limits_dot_txt="alpha<2\n")),
    Layout("an included file that is empty", _nested("-r base.txt\n", base_dot_txt="\n"), change={"base.txt": PINNED}),
    Layout("options alone", {"requirements.txt": "--pre\n--no-binary :none:\n"}),
    Layout(
        "an option that there is not", {"requirements.txt": "alpha\n--nonsense=1\n"}, refused="requirements.txt, line 2"
    ),
    Layout("an abbreviated option", {"requirements.txt": "--req base.txt\n", "base.txt": PINNED}),
    Layout(
        "a file that includes itself",
        {"requirements.txt": "-r again.txt\n", "again.txt": "-r requirements.txt\n"},
        refused="includes itself",
    ),
    Layout(
        "included twice",
        _nested("-r base.txt\n-r more/two.txt\n", base_dot_txt=PINNED, more__two_dot_txt="-r ../base.txt\nbeta\n"),
    ),
    Layout(
        "hashes",
        {"requirements.txt": "alpha==1.0 \\\n    --hash=sha256:@ALPHA@\n"},
        change={"requirements.txt": "beta==1.0\n"},
    ),
    Layout(
        "a directory of packages beside the included file",
        {
            "requirements.txt": "-r more/base.txt\n",
            "more/base.txt": "--no-index\n-f wheels\ndelta\n",
            "more/wheels/delta-3.0-py3-none-any.whl": "@WHEEL@ delta 3.0",
        },
        local=True,
        imports=("delta",),
    ),
    Layout(
        "a directory of packages where it is installed from",
        {
            "jobs/requirements.txt": "-r ../base.txt\n",
            "base.txt": "--find-links=wheels\ndelta\n",
            "jobs/wheels/delta-3.0-py3-none-any.whl": "@WHEEL@ delta 3.0",
        },
        code_path="jobs",
        local=True,
    ),
    Layout(
        "a wheel in the repository",
        {
            "requirements.txt": "vendor/delta-3.0-py3-none-any.whl\n",
            "vendor/delta-3.0-py3-none-any.whl": "@WHEEL@ delta 3.0",
        },
        local=True,
        imports=("delta",),
    ),
    Layout(
        "a wheel that is not in the repository",
        {"requirements.txt": "vendor/delta-3.0-py3-none-any.whl\n"},
        refused="vendor/delta-3.0-py3-none-any.whl",
    ),
    # Local code: paths are those of the directory it is installed from, and what is installed is checked out.
    Layout(
        "editable without a space",
        {"requirements.txt": "-e.\n", **package("", "inner", "alpha==1.0")},
        local=True,
        imports=("inner",),
        change=package("", "inner", "alpha==2.0"),
    ),
    Layout(
        "editable in a long form",
        {"requirements.txt": "--editable=./libs/inner\n", **package("libs/inner/", "inner")},
        local=True,
        imports=("inner",),
    ),
    Layout(
        "an abbreviated editable",
        {"requirements.txt": "--edit ./libs/inner\n", **package("libs/inner/", "inner")},
        local=True,
    ),
    Layout(
        "the root itself below a code path",
        {"jobs/requirements.txt": "..\n", **package("", "inner", "alpha==1.0")},
        code_path="jobs",
        local=True,
        imports=("inner",),
    ),
    Layout(
        "an editable root below a code path",
        {"requirements.txt": "-e .\n", **package("", "inner", "alpha==1.0"), "jobs/README.md": ""},
        code_path="jobs",
        where="",
        local=True,
        imports=("inner",),
    ),
    Layout(
        "a package beside the code path",
        {"jobs/requirements.txt": "-e ../libs/inner\n", **package("libs/inner/", "inner", "alpha==1.0")},
        code_path="jobs",
        local=True,
        change=package("libs/inner/", "inner", "alpha==2.0"),
        imports=("inner",),
    ),
    Layout(
        "a local path in an included file is that of the directory it is installed from",
        {
            "requirements.txt": "-r requirements/base.txt\n",
            "requirements/base.txt": "-e ./libs/inner\n",
            **package("libs/inner/", "inner"),
        },
        local=True,
        imports=("inner",),
    ),
    Layout(
        "a local path that fits only the included file",
        {
            "requirements.txt": "-r requirements/base.txt\n",
            "requirements/base.txt": "-e ../libs/inner\n",
            **package("libs/inner/", "inner"),
        },
    ),
    Layout(
        "a relative file URL",
        {"jobs/requirements.txt": "inner @ file:../libs/inner\n", **package("libs/inner/", "inner")},
        code_path="jobs",
        local=True,
        imports=("inner",),
    ),
    Layout(
        "a file URL alone",
        {"requirements.txt": "file:libs/inner\n", **package("libs/inner/", "inner")},
        local=True,
        imports=("inner",),
    ),
    Layout(
        "extras of a local package",
        {
            "requirements.txt": "./libs/inner[gpu]\n",
            **package(
                "libs/inner/",
                "inner",
                "alpha==1.0",
                more='[project.optional-dependencies]\ngpu = ["beta==1.0"]  # extra\n',
            ),
        },
        local=True,
        imports=("inner", "beta"),
    ),
    Layout("a directory that is no package", {"requirements.txt": "./libs\n", "libs/x.py": ""}),
    Layout(
        "a local package that needs what lies beside it",
        {
            "jobs/requirements.txt": "../libs/outer\n",
            "libs/outer/pyproject.toml": project("outer", more=BUILD_SYSTEM).replace(
                "dependencies = []\n", 'dynamic = ["dependencies"]\n'
            ),
            "libs/outer/backend.py": BACKEND.replace("needs.txt", "../needs.txt"),
            "libs/needs.txt": "alpha==1.0\n",
        },
        code_path="jobs",
        local=True,
        change={"libs/needs.txt": "alpha==2.0\n"},
    ),
    # Links.
    Layout(
        "a link in the code path to elsewhere in the repository",
        {"jobs/requirements.txt": PINNED, "shared/lib/tool.py": "", "shared/other.txt": ""},
        code_path="jobs",
        links={"jobs/tool.py": "../shared/lib/tool.py"},
        imports=("tool",),
    ),
    Layout(
        "a link to a directory with a link in it",
        {"jobs/requirements.txt": PINNED, "shared/lib/__init__.py": "", "deep/inside.py": ""},
        code_path="jobs",
        links={"jobs/lib": "../shared/lib", "shared/lib/inside.py": "../../deep/inside.py"},
        imports=("lib.inside",),
    ),
    Layout("a link that leads to nothing", {"requirements.txt": PINNED}, links={"data": "nowhere"}),
    Layout(
        "a link out of the repository",
        {"requirements.txt": PINNED},
        links={"data": "/etc"},
        refused="data is a link that leads outside",
    ),
    Layout(
        "a link in a package beside the code path",
        {"jobs/requirements.txt": "-e ../libs/inner\n", **package("libs/inner/", "inner"), "shared/tool.py": ""},
        code_path="jobs",
        links={"libs/inner/tool.py": "../../shared/tool.py"},
        local=True,
        imports=("inner", "tool"),
    ),
    Layout(
        "a link out of the repository in the second package beside the code path",
        {
            "jobs/requirements.txt": "../libs/inner\n../libs/outer\n",
            **package("libs/inner/", "inner"),
            **package("libs/outer/", "outer"),
        },
        code_path="jobs",
        links={"libs/outer/data": "/etc"},
        refused="libs/outer/data is a link that leads outside",
    ),
    Layout(
        "a link to a directory with a link out of the repository, beside a package",
        {
            "jobs/requirements.txt": "../libs/inner\n",
            **package("libs/inner/", "inner"),
            "shared/lib/x.py": "",
        },
        code_path="jobs",
        links={"jobs/lib": "../shared/lib", "shared/lib/data": "/etc"},
        refused="shared/lib/data is a link that leads outside",
    ),
    Layout(
        "requirements that are a link",
        {"base/prod.txt": PINNED, "jobs/main.py": ""},
        code_path="jobs",
        links={"jobs/requirements.txt": "../base/prod.txt"},
        change={"base/prod.txt": "alpha==2.0\n"},
    ),
)
