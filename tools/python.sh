#!/bin/sh
# Print the newest Python >= 3.10 that works. A name on PATH is not enough: pyenv leaves shims of versions that are not active.
set -eu

for name in python3.13 python3.12 python3.11 python3.10 python3; do
    if path=$(command -v "$name") && "$path" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "$path"
        exit 0
    fi
done
echo "tools/python.sh: no Python 3.10 or newer was found on PATH: apt-get install python3" >&2
exit 1
