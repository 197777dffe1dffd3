"""Write roles/*/README.md from meta/argument_specs.yml. With --check, only say whether they are as they should be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]


def readme(role: Path) -> str:
    """The page of one role."""
    spec = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    lines = [f"# runqy.fleet.{role.name}", "", f"{spec['short_description']}.", "", *spec["description"], ""]
    lines += ["Written by `make docs` from [meta/argument_specs.yml](meta/argument_specs.yml).", ""]
    lines += ["| variable | type | default | meaning |", "| --- | --- | --- | --- |"]
    lines += rows(spec["options"], "")
    return "\n".join(lines) + "\n"


def rows(options: dict[str, Any], prefix: str) -> Iterator[str]:
    """One line of the table for each option, those within others after them."""
    for name, option in options.items():
        path = f"{prefix}{name}"
        kind = option["type"]
        if "elements" in option:
            kind += f" of {option['elements']}"
        default = (
            f"`{json.dumps(option['default'])}`"
            if "default" in option
            else "required"
            if option.get("required")
            else ""
        )
        meaning = cell(option["description"])
        if "choices" in option:
            meaning += (
                " One of " + ", ".join(f"`{choice}`" if choice else "empty" for choice in option["choices"]) + "."
            )
        if path == "runqy_agent_instances[].config":
            yield f"| `{path}` | {kind} | {default} | {meaning} |"
            continue
        yield f"| `{path}` | {kind} | {cell(default)} | {meaning} |"
        if "options" in option:
            yield from rows(option["options"], f"{path}[]." if kind.startswith("list") else f"{path}.")


def cell(text: str) -> str:
    """A text that does not end its cell of the table."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write or check; the exit code is 1 if a page differs."""
    stale = []
    for role in sorted((ROOT / "roles").iterdir()):
        path = role / "README.md"
        text = readme(role)
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
    if stale:
        print(f"not as `make docs` writes them: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
