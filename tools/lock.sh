#!/bin/sh
# Choose anew the versions of everything that the agent needs, for all Pythons and machines, and write them down with
# their checksums. What hosts install is this and nothing else.
# Usage: tools/lock.sh VENV        (VENV: has uv)
set -eu

echo pip | "$1/bin/uv" pip compile --quiet --universal --python-version 3.10 --extra uvloop --generate-hashes \
    --no-header --no-emit-index-url --no-annotate --upgrade --output-file roles/runqy_agent/files/requirements.lock \
    pyproject.toml - >/dev/null
