"""Names of keys, and the scripts as files."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest

from runqy_agent import broker
from runqy_agent.broker import keys, scripts

FILES = sorted(Path(str(resources.files(scripts))).glob("*.lua"))
FLAT_FILES = sorted(Path(str(resources.files(scripts))).glob("flat/*.lua"))
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
INCLUDE = re.compile(r"^ *--@include (\w+)\.lua$", re.MULTILINE)
STEPS = set(INCLUDE.findall("\n".join(TEXTS.values())))
RUN_BY_THEMSELVES = sorted(TEXTS.keys() - STEPS)


def header(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--") or line.startswith("--@"):
            break
        lines.append(line)
    return "\n".join(lines)


def whole(name: str) -> str:
    """The text of a file with those that it includes."""
    return INCLUDE.sub(lambda match: whole(match[1]) + "\n", TEXTS[name]).strip()


def test_the_keys_of_a_queue_are_asynqs_and_share_one_slot() -> None:
    names = keys.queue_keys("a.b")
    assert names.pending == "asynq:{a.b}:pending"
    assert names.task("id") == "asynq:{a.b}:t:id"
    assert names.group_prefix + "g1" == "asynq:{a.b}:g:g1"
    assert names.exchange("2026-11-24") == [
        f"asynq:{{a.b}}:{name}"
        for name in (
            "pending", "active", "lease", "paused", "processed", "processed:2026-11-24", "failed", "failed:2026-11-24",
            "completed", "retry", "archived",
        )
    ]  # fmt: skip


def test_the_flat_keys_of_a_queue_have_no_hash_tag_and_no_list_of_leases() -> None:
    names = keys.queue_keys("a:b", "flat")
    assert names.task("id") == "asynq:t:id"
    assert names.group_prefix == ""
    assert names.exchange("2026-11-24") == [
        f"asynq:a:b:{name}"
        for name in (
            "pending", "active", "active", "paused", "processed", "processed:2026-11-24", "failed", "failed:2026-11-24",
            "completed", "retry", "archived",
        )
    ]  # fmt: skip


def test_days_are_utc_days() -> None:
    assert keys.utc_day(1_795_478_399.9) == "2026-11-23"
    assert keys.utc_day(1_795_478_400) == "2026-11-24"


def test_the_servers_scan_for_workers_does_not_match_asynqs_hash_of_running_tasks() -> None:
    assert keys.worker("h:1:u") == "asynq:workers:h:1:u"
    assert not keys.active_workers("h:1:u").startswith("asynq:workers:")
    assert keys.server("h:1:u") == "asynq:servers:{h:1:u}"


@pytest.mark.parametrize("path", [*FILES, *FLAT_FILES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_script_is_headed_by_what_goes_in_and_what_comes_out(path: Path) -> None:
    assert re.match(r"-- [a-z_]+: ", header(path))
    if path.stem not in STEPS:
        assert "-- KEYS: " in header(path)
        assert "-- ARGV: " in header(path)
    else:
        assert "-- Arguments: " in header(path)
    text = path.read_text(encoding="utf-8")
    returns_something = re.search(r"^\s*return ", text, re.MULTILINE) and path.stem != "counters"
    assert not returns_something or "-- Returns: " in header(path)


def test_every_file_is_a_script_that_is_run_or_a_step_that_is_included() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in Path(str(resources.files(broker))).glob("*.py"))
    assert TEXTS.keys() >= STEPS
    assert [name for name in RUN_BY_THEMSELVES if f'"{name}"' not in code] == []


@pytest.mark.parametrize("name", RUN_BY_THEMSELVES)
def test_a_loaded_script_is_whole_and_is_called_by_its_digest(name: str) -> None:
    script = scripts.load(name)
    assert "--@include" not in script.text
    assert script.sha == hashlib.sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    assert scripts.load(name) is script


def test_the_exchange_contains_the_text_of_every_step() -> None:
    text = scripts.load("exchange").text
    for step in ("held", "counters", "unlock", "done", "complete", "retry", "archive", "requeue", "take"):
        assert whole(step) in text


def test_a_file_of_the_flat_layout_stands_in_for_the_one_of_its_name() -> None:
    text, flat = scripts.load("exchange").text, scripts.load("exchange", "flat").text
    for name in ("held", "read", "store"):
        own = next(path for path in FLAT_FILES if path.stem == name).read_text(encoding="utf-8").strip()
        assert own in flat
        assert own not in text
        assert TEXTS[name].strip() not in flat
    assert whole("complete") in flat
    assert scripts.load("extend", "flat").text == scripts.load("extend").text


def test_every_script_belongs_to_a_layout() -> None:
    names = {layout: {script.name for script in scripts.all_scripts(layout)} for layout in ("asynq", "flat")}
    assert names["asynq"] == set(RUN_BY_THEMSELVES)
    flat_alone = {path.stem for path in FLAT_FILES} - TEXTS.keys()
    assert names["flat"] == set(RUN_BY_THEMSELVES) - {"beat", "enlist"} | flat_alone
