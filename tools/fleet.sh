#!/bin/sh
# Run a command with Ansible, Molecule and the linters at hand, in an environment of their own that this makes if need be.
# Usage: tools/fleet.sh COMMAND...
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv-fleet
requirements=$root/tests/fleet/requirements.txt
collections=$root/tests/fleet/collections.txt
stamp=$venv/.installed

if ! cat "$requirements" "$collections" | cmp -s - "$stamp"; then
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
    # Galaxy is not asked: the package from the index holds the collections.
    download=$venv/download
    package=$(grep '^ansible==' "$collections")
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$download" "$package"
    grep -v -e '^#' -e '==' "$collections" | while read -r name; do
        "$venv/bin/python" - "$download" "$venv/collections" "$name" <<'PYTHON'
import glob, sys, zipfile

download, target, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(f"{download}/ansible-*.whl")[0]) as wheel:
    members = [each for each in wheel.namelist() if each.startswith(f"ansible_collections/{name}/")]
    assert members, f"there is no {name} in the package"
    wheel.extractall(target, members)
PYTHON
    done
    rm -r "$download"
    cat "$requirements" "$collections" >"$stamp"
fi

export PATH=$venv/bin:$PATH
export ANSIBLE_HOME=$venv/ansible
export ANSIBLE_COLLECTIONS_PATH=$venv/collections
export ANSIBLE_CONFIG=$root/ansible.cfg
if [ "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)" != cgroup2fs ]; then
    export CONTAINERS_CONF=$root/tools/podman.conf
fi
exec "$@"
