#!/bin/sh
# Build the program of a Go module, and run a command that needs it. Where a Go that is new enough or the module proxy
# cannot be had, say so in one line and run nothing.
# Usage: tools/go.sh MODULE PROGRAM COMMAND...        (MODULE: its directory; PROGRAM: the file to build)
set -eu

module=$1
program=$2
shift 2
needed=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' "$module/go.mod")

skip() {
    echo "SKIPPED $module: $*"
    exit 0
}

new_enough() {
    [ -n "$1" ] && [ "$(printf '%s\n' "$needed" "$1" | sort -V | head -n 1)" = "$needed" ]
}

# The version that would build the module: with GOTOOLCHAIN=auto that is one which go fetches if it has to.
version() {
    (cd "$module" && go env GOVERSION) 2>/dev/null | sed -n 's/.*go\([0-9]*\.[0-9]*\).*/\1/p'
}

# Debian and Ubuntu have several versions side by side, in packages and directories of their own.
packaged() {
    apt-cache pkgnames golang-1 2>/dev/null | sed -n 's/^golang-\([0-9.]*\)-go$/\1/p' | sort -V | tail -n 1
}

if ! new_enough "$(version)"; then
    found=$(version)
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update --quiet=2 || true # an old list will do
    fi
    offered=$(packaged)
    if ! new_enough "$offered"; then
        skip "it needs Go $needed; this machine has ${found:-none}, and its package lists offer ${offered:-none}"
    fi
    PATH=/usr/lib/go-$offered/bin:$PATH
    new_enough "$(version)" || "$(dirname "$0")/apt.sh" "golang-$offered-go"
fi

# Without cgo no C compiler is needed.
export CGO_ENABLED=0

if ! trouble=$(cd "$module" && go mod download 2>&1); then
    unreachable='dial tcp|no such host|timeout|connection (refused|reset)|unreachable|GOPROXY=off|: (403|407|5[0-9]{2}) '
    if ! echo "$trouble" | grep -q 'checksum mismatch' && echo "$trouble" | grep -Eq "$unreachable"; then
        skip "the Go module proxy cannot be reached ($(echo "$trouble" | tail -n 1 | cut -c 1-200))"
    fi
    printf '%s\n' "$trouble" >&2
    exit 1
fi

unformatted=$(cd "$module" && gofmt -l .)
if [ -n "$unformatted" ]; then
    printf 'not as gofmt writes it, in %s:\n%s\n' "$module" "$unformatted" >&2
    exit 1
fi
mkdir -p "$(dirname "$program")"
built=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
(
    cd "$module"
    go vet -mod=readonly ./...
    go build -mod=readonly -buildvcs=false -o "$built" .
)
exec "$@"
