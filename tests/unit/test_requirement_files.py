"""Our reading of requirement files against pip's own parser."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pip._internal.exceptions import PipError
from pip._internal.network.session import PipSession
from pip._internal.req.constructors import parse_req_from_editable, parse_req_from_line
from pip._internal.req.req_file import RequirementsFileParser, get_line_parser

from runqy_agent.deployment.requirement_lines import local_target
from runqy_agent.deployment.requirements import MissingPathError, read_requirements
from runqy_agent.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "alpha",
    "beta==1.0",
    "gamma [x] >=1,<2",
    "alpha==1.0 ; python_version > '3'",
    "alpha@https://example.com/a-1.zip",
)
LOCAL = (
    ".",
    "./lib",
    "../lib",
    "lib/",
    "./lib[x]",
    "file:lib",
    "file:///srv/x",
    "alpha @ file:../lib",
    "wheels/a-1.0-py3-none-any.whl",
)
EDITABLE = (
    "-e .",
    "-e.",
    "-e ./lib",
    "--editable=./lib",
    "--editable ./lib",
    "--edit lib",
    "-e git+https://example.com/x#egg=x",
    "-e './lib'",
)
INCLUDES = (
    "-r base.txt",
    "-rbase.txt",
    "--requirement=base.txt",
    "--req base.txt",
    "-c base.txt",
    "--constraint 'base.txt'",
    "-r more/deep.txt",
)
OPTIONS = (
    "-i https://example.com/simple",
    "--extra-index-url https://example.com",
    "--no-binary :all:",
    "--pre",
    "--no-index",
    "--prefer-binary",
    "-f https://example.com/wheels",
    "--trusted-host example.com",
    "--require-hashes",
    "-f lib",
)
WRONG = ("--nonsense", "-r", "--hash", "-e", "-x y", "--requirement='base.txt", "-e ./lib --no-such")
ENDS = (
    "\n",
    "\r\n",
    "\r",
    "\f\n",
    "\v",
    "\u2028",
    "\\\n",
    "\\\r\n",
    " \\\n",
    "",
    " # why\n",
    "  # a \\\n",
    "# glued\n",
    "\\ \n",
    "\n\n",
    "\n#x\\\n",
)
PIECES = st.sampled_from(
    (
        *NAMES,
        *LOCAL,
        *EDITABLE,
        *INCLUDES,
        *OPTIONS,
        *WRONG,
        "",
        "#",
        "# x \\",
        " ",
        "\t",
        "--hash=sha256:" + "0" * 64,
        "\\",
    )
)
FILES = st.lists(st.tuples(PIECES, st.sampled_from((*ENDS, " "))), max_size=6).map(
    lambda pairs: "".join(a + b for a, b in pairs)
)
ENCODINGS = st.sampled_from(
    (
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-32",
        "# coding: latin-1\n",
        "# -*- coding: utf-16-le -*-\n",
        "# vim: set fileencoding=nonsense :\n",
    )
)


def pips_reading(path: Path) -> tuple[list[tuple[bool, str, bool]], set[str]] | None:
    """What pip is asked to install (constraint or not, text, editable), and which files it read; None if it refuses."""
    read = set[str]()
    parser = RequirementsFileParser(PipSession(), get_line_parser(None))
    inner = parser._parse_file

    def noting(filename: str, constraint: bool) -> object:
        read.add(filename)
        return inner(filename, constraint)

    parser._parse_file = noting  # type: ignore[method-assign,assignment]
    found = []
    try:
        for line in parser.parse(str(path), constraint=False):
            if line.requirement:
                found.append((line.constraint, line.requirement, line.is_editable))  # noqa: PERF401 - it raises half way
    except (PipError, UnicodeError, LookupError, RecursionError):
        return None
    return found, read


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout") / "jobs"
    for name in ("lib", "more", "../lib", "wheels"):
        (root / name).mkdir(parents=True)
        (root / name / "pyproject.toml").touch()
    (root / "wheels" / "a-1.0-py3-none-any.whl").touch()
    (root / "base.txt").write_text("alpha\n", encoding="utf-8")
    (root / "more" / "deep.txt").write_text("-r ../base.txt\n-e ./lib\n", encoding="utf-8")
    (root / "pyproject.toml").touch()
    return root


@given(text=FILES, encoding=ENCODINGS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_files_and_requirements_are_those_that_pip_reads(
    directory: Path, monkeypatch: pytest.MonkeyPatch, text: str, encoding: str
) -> None:
    monkeypatch.chdir(directory)
    path = directory / "requirements.txt"
    path.write_bytes((encoding + text).encode() if encoding.startswith("#") else text.encode(encoding))
    logging.disable()
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        theirs = pips_reading(path)
        try:
            ours = read_requirements(path, directory.parent)
        except EnvironmentBuildError as refused:
            # pip looks for what it installs only later
            expected = theirs is None or (isinstance(refused, MissingPathError) and refused.installed)
            assert expected, refused  # noqa: PT017 - raised or not, both must be as pip has it
            return
    assert theirs is not None
    wanted, read = theirs
    assert {str((directory.parent / name).resolve()) for name in ours.files} == {
        str((directory / name).resolve()) for name in read
    }
    given_to_uv = [
        (constraint, line.partition(" --hash")[0].removeprefix("-e "), line.startswith("-e "))
        for constraint, lines in ((False, ours.lines), (True, ours.constraints))
        for line in lines
        if line.startswith("-e ") or not line.startswith("-")
    ]
    assert sorted(given_to_uv) == sorted(wanted)


@pytest.mark.parametrize("text", [*NAMES, *LOCAL, *(text for text in EDITABLE if "'" not in text)])
def test_what_is_local_is_what_pip_takes_for_local(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(directory)
    editable = text.startswith("-")
    bare = text.removeprefix("-e").removeprefix("--editable").removeprefix("--edit").lstrip("= ")
    parsed = parse_req_from_editable(bare) if editable else parse_req_from_line(bare, None)
    link, requirement = parsed.link, parsed.requirement
    local = (link is not None and link.scheme == "file") or (
        requirement is not None and (requirement.url or "").startswith("file:")
    )
    assert (local_target(bare, directory, editable=editable) is not None) is local


def test_variables_are_read_as_pip_reads_them_and_come_from_a_list_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_LISTED", "more/deep.txt")
    path = directory / "requirements.txt"
    path.write_text("-r ${WHICH}\nbeta==${NOT_LISTED}\n", encoding="utf-8")
    found = read_requirements(path, directory.parent, variables={"WHICH": "base.txt"})
    assert set(found.files) == {"jobs/requirements.txt", "jobs/base.txt"}
    assert found.variables == {"WHICH", "NOT_LISTED"}
    assert "beta==${NOT_LISTED}" in found.lines
