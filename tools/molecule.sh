#!/bin/sh
# Run Molecule scenarios on systemd hosts in containers, each from nothing to nothing.
# Usage: tools/molecule.sh [SCENARIO...]        (all, without a name; KEEP=1 leaves the hosts of a failed one)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
[ $# -gt 0 ] || set -- $(for file in molecule/*/molecule.yml; do basename "$(dirname "$file")"; done)

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "SKIPPED molecule: the test hosts need root, on Debian or Ubuntu"
    exit 0
fi
tools/need.sh git podman mmdebstrap ssh-keygen=openssh-client runc iptables
for package in netavark aardvark-dns; do
    [ -e "/usr/lib/podman/$package" ] || command -v "$package" >/dev/null || tools/apt.sh netavark aardvark-dns
done
if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    export CONTAINERS_CONF=$root/tools/podman.conf
fi
export NO_COLOR=1 ANSIBLE_NOCOLOR=1
tools/fleet.sh true

failed=
for scenario in "$@"; do
    began=$(date +%s)
    echo "=== molecule: $scenario"
    destroy=$([ "${KEEP:-}" ] && echo never || echo always)
    if tools/fleet.sh molecule test --scenario-name "$scenario" --destroy "$destroy"; then
        echo "=== molecule: $scenario passed in $(($(date +%s) - began)) s"
    else
        echo "=== molecule: $scenario FAILED after $(($(date +%s) - began)) s"
        failed="$failed $scenario"
        break
    fi
done
[ -z "$failed" ] || exit 1
