#!/bin/sh
# Run Molecule scenarios on systemd hosts in containers, each from nothing to nothing.
# Usage: tools/molecule.sh [SCENARIO...]        (all, without a name; KEEP=1 leaves the hosts of a failed one;
#        MOLECULE_JOBS=2 runs two at a time, and shows only the output of one that fails)
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "SKIPPED molecule: the test hosts need root, on Debian or Ubuntu"
    exit 0
fi
[ $# -gt 0 ] || set -- $(for file in molecule/*/molecule.yml; do basename "$(dirname "$file")"; done)
for scenario in "$@"; do
    if [ ! -f "molecule/$scenario/molecule.yml" ]; then
        echo "there is no scenario $scenario in molecule/" >&2
        exit 1
    fi
done

tools/need.sh git podman mmdebstrap ssh-keygen=openssh-client runc iptables flock=util-linux
for program in netavark aardvark-dns; do
    [ -e "/usr/lib/podman/$program" ] || [ -e "/usr/libexec/podman/$program" ] || tools/apt.sh netavark aardvark-dns
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || tools/apt.sh debian-archive-keyring
tools/fleet.sh true

jobs=${MOLECULE_JOBS:-1}
# Each host's systemd takes about eight of these; hosts beside hosts need more than the kernel's usual 128.
if [ "$jobs" -gt 1 ] && [ "$(sysctl -n fs.inotify.max_user_instances)" -lt $((256 * jobs)) ]; then
    sysctl --quiet --write fs.inotify.max_user_instances=$((256 * jobs)) || jobs=1
fi
if [ "$jobs" -gt 1 ] && [ $# -gt 1 ]; then
    mkdir -p build
    tools/testhost_image.sh bookworm trixie # two at once would both build them
    export MOLECULE_JOBS=1
    # 255 lets xargs start no other one.
    printf '%s\n' "$@" | xargs -P "$jobs" -n 1 sh -c '
        log=build/molecule-$0.log
        export FLEET_ANSIBLE_HOME=$PWD/build/ansible-$0 # molecule installs the collection there
        if tools/molecule.sh "$0" >"$log" 2>&1; then tail -n 1 "$log"; else cat "$log"; exit 255; fi'
    exit
fi

# Connections that ssh keeps open are this run's own. A socket's path must be short.
sockets=$(mktemp -d /tmp/runqy-ssh.XXXXXX)
export ANSIBLE_SSH_CONTROL_PATH_DIR=$sockets
export NO_COLOR=1 ANSIBLE_NOCOLOR=1
scenario=
end() {
    if [ "$scenario" ] && [ ! "${KEEP:-}" ]; then
        destroy || true # interrupted
    fi
    rm -rf "$sockets"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

destroy() {
    tools/fleet.sh molecule destroy --scenario-name "$scenario"
}

# Told never to destroy, molecule does not remove what an earlier run has left either.
run() {
    if [ "${KEEP:-}" ]; then
        destroy && tools/fleet.sh molecule test --scenario-name "$scenario" --destroy never && destroy
    else
        tools/fleet.sh molecule test --scenario-name "$scenario" --destroy always
    fi
}

mkdir -p build
for each in "$@"; do
    # A scenario runs once at a time in a checkout; the hosts of other checkouts have other names.
    exec 9>"build/molecule-$each.lock"
    if ! flock --nonblock 9; then
        echo "another run of $each goes on here, waiting for its end"
        flock 9
    fi
    scenario=$each
    began=$(date +%s)
    echo "=== molecule: $scenario"
    # Hosts that are kept must not keep the lock: they do not get it.
    if run 9>&-; then
        echo "=== molecule: $scenario passed in $(($(date +%s) - began)) s"
        scenario=
        continue
    fi
    echo "=== molecule: $scenario FAILED after $(($(date +%s) - began)) s"
    if [ "${KEEP:-}" ]; then
        echo "Its hosts are kept, see podman ps. To remove them: tools/fleet.sh molecule destroy --scenario-name $scenario"
    else
        scenario= # its hosts are gone already
    fi
    exit 1
done
