#!/bin/sh
# Make sure that programs are there, by way of the Debian packages that hold them.
# Usage: tools/need.sh PROGRAM[=PACKAGE]...
set -eu

PATH=$PATH:/usr/sbin:/sbin # where daemons are, not everybody looks
missing=
for need in "$@"; do
    command -v "${need%%=*}" >/dev/null || missing="$missing ${need#*=}"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of names
    "$(dirname "$0")/apt.sh" $missing
fi
