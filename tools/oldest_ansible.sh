#!/bin/sh
# Run a command with the oldest supported ansible-core; its programs are in $ANSIBLE_BIN. Where this Python is too new for it,
# say so in one line and run nothing.
# Usage: tools/oldest_ansible.sh COMMAND...
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv-fleet-oldest
wanted='ansible-core==2.16.*'

if ! echo "$wanted" | cmp -s - "$venv/.installed"; then
    for name in python3.12 python3.11 python3.10 python3; do
        python=$(command -v "$name") && "$python" -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && break
        python=
    done
    if [ -z "$python" ]; then
        echo "SKIPPED $wanted: it needs Python 3.10 to 3.12 with venv, and this machine has $(python3 --version 2>&1)"
        exit 0
    fi
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$wanted"
    echo "$wanted" >"$venv/.installed"
fi
ANSIBLE_BIN=$venv/bin exec "$@"
