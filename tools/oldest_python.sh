#!/bin/sh
# Run pytest on the oldest supported Python, with the oldest versions of what the agent depends on. Where this Python is
# not to be had, say so in one line and run nothing.
# Usage: tools/oldest_python.sh VENV PYTEST-ARGUMENT...        (VENV: has uv)
set -eu

uv=$(cd "$1" && pwd)/bin/uv
shift
cd "$(dirname "$0")/.."
venv=.venv-oldest
wanted=$(sed -n 's/^requires-python = ">=\(.*\)"$/\1/p' pyproject.toml)

if ! cmp -s pyproject.toml "$venv/.installed"; then
    for python in "$(command -v "python$wanted")" "${PYENV_ROOT:-${HOME:-/root}/.pyenv}/versions/$wanted".*/bin/python ''; do
        "$python" -c '' 2>/dev/null && break # pyenv leaves shims of versions that are not active
    done
    if [ -z "$python" ]; then
        echo "SKIPPED Python $wanted: this machine has none"
        exit 0
    fi
    "$uv" venv --quiet --clear --python "$python" "$venv"
    cp pyproject.toml "$venv/.installing"
    "$uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct --editable '.[uvloop]'
    "$uv" pip install --quiet --python "$venv/bin/python" \
        pytest pytest-timeout pytest-xdist hypothesis 'fakeredis[lua]' 'pip>=26'
    mv "$venv/.installing" "$venv/.installed"
fi
"$uv" pip list --quiet --python "$venv/bin/python" | grep -E '^(redis|httpx|msgspec|pyyaml|protobuf|psutil|prometheus-client|uvloop) ' || true
exec "$venv/bin/python" -m pytest "$@"
