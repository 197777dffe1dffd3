#!/bin/sh
# Make a virtual environment with this project and some of its extras in it, unless it is there and pyproject.toml is
# the same as then. Several sets of extras share the environment.
# Usage: tools/venv.sh DIRECTORY EXTRAS        (extras with commas: dev,uvloop)
set -eu

directory=$1
extras=$2
tools=$(dirname "$0")
stamp=$directory/.installed-$(echo "$extras" | tr , -)

if [ -x "$directory/bin/python" ] && cmp -s pyproject.toml "$stamp"; then
    exit 0
fi

if ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$("$tools/python.sh")
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian packs it separately: python3-venv for its own Python, python3.X-venv for others.
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        "$tools/apt.sh" "$package"
    fi
    echo "making $directory with $("$python" --version) ($python)"
    "$python" -m venv --clear "$directory"
fi

echo "installing runqy-agent[$extras] into $directory"
cp pyproject.toml "$stamp.new" # as it is now, whoever changes it meanwhile
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --editable ".[$extras]"
mv "$stamp.new" "$stamp"
