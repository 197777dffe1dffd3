#!/bin/sh
# Install Debian packages, as root and without starting any daemon; or say what to type.
# Usage: tools/apt.sh PACKAGE...
set -eu

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: $*. Install it, on Debian or Ubuntu with: sudo apt-get install $*" >&2
    exit 1
fi

# One at a time: neither apt nor what follows here can do with two.
exec 9>/tmp/runqy-apt.lock
flock 9

# Packages ask this program whether they may start their service. Ours answers no, and goes again.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends "$@" </dev/null 9>&-
