#!/bin/sh
# Build the images of the test hosts from Debian's packages, unless they are there.
# Usage: tools/testhost_image.sh SUITE...        (SUITE: bookworm, trixie)
#        tools/testhost_image.sh --name SUITE    (only print the image's name)
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,python3-venv,python3-packaging,python3-apt
packages=$packages,git,sudo,openssh-server,openssh-client,iproute2,ca-certificates,curl,procps,redis-server,libseccomp2

# What a container has no use for. The last three would watch files, and all hosts together may do so 128 times only
# (fs.inotify.max_user_instances): root's own service manager and those that wait for passwords.
masked="getty.target systemd-udevd.service systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer"
masked="$masked user@0.service systemd-ask-password-wall.path systemd-ask-password-console.path"

recipe=$(cat "$0" "$here/molecule/shared/image/testhost-init" | sha256sum | cut -c 1-12)
if [ "$1" = --name ]; then
    echo "localhost/runqy-testhost:$2-$recipe"
    exit
fi

# The hosts' packages come from where this machine gets its own; without that, from mmdebstrap's default.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -Eo 'https?://[^ ]+/debian/?( |$)' | head -n 1)

for suite in "$@"; do
    image=localhost/runqy-testhost:$suite-$recipe
    podman image exists "$image" && continue
    echo "building $image" >&2
    scratch=$(mktemp -d)
    mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="copy-in $here/molecule/shared/image/testhost-init /usr/sbin" \
        --customize-hook='chmod 755 "$1/usr/sbin/testhost-init"' \
        --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash deploy' \
        --customize-hook='echo "deploy ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/deploy"' \
        --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash plain' \
        --customize-hook="chroot \"\$1\" systemctl mask $masked" \
        --customize-hook='chroot "$1" systemctl disable redis-server.service' \
        "$suite" "$scratch/root.tar" $mirror >&2
    podman import --change 'CMD ["/usr/sbin/testhost-init"]' --change 'STOPSIGNAL SIGRTMIN+3' "$scratch/root.tar" "$image" >/dev/null
    rm -rf "$scratch"
done
