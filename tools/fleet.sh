#!/bin/sh
# Run a command with Ansible, Molecule and the linters at hand, in an environment of their own that this makes if need be.
# Usage: tools/fleet.sh COMMAND...
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv-fleet
requirements=$root/tests/fleet/requirements.txt
stamp=$venv/.installed

if ! cmp -s "$requirements" "$stamp"; then
    python=$("$root/tools/python.sh")
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then # what Ansible wants of its controller
        "$root/tools/apt.sh" python3.11 python3.11-venv
        python=$("$root/tools/python.sh")
    fi
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        "$root/tools/apt.sh" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    echo "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --requirement "$requirements"
    cp "$requirements" "$stamp"
fi

export PATH=$venv/bin:$PATH
export ANSIBLE_HOME=${FLEET_ANSIBLE_HOME:-$venv/ansible}
export ANSIBLE_COLLECTIONS_PATH=$venv/collections # none: neither the product nor its tests need one
export ANSIBLE_CONFIG=$root/ansible.cfg
if [ "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)" != cgroup2fs ]; then
    export CONTAINERS_CONF=$root/tools/podman.conf
fi
exec "$@"
