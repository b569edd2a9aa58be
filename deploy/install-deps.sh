#!/usr/bin/env bash
# Installs the Debian 12 packages that lorad needs: only what is missing, as root or through sudo.
#
#   deploy/install-deps.sh [--print] GROUP...
#
# Groups: build, run, test, ci, cross, quickstart. --print lists the groups' packages and installs nothing.
# Exit codes: 0 all there, 1 something is missing and could not be installed, 2 wrong command line.
set -euo pipefail

# OpenBLAS: the serial build. lorad calls it from one thread at a time, to form B·A when it merges, and the pthread build would start
# a pool of its own beside ours. Where another build is there already it serves as well: 'a|b' is satisfied by either.
declare -A PACKAGES=(
    [build]="gcc libc6-dev meson ninja-build pkg-config|pkgconf libmicrohttpd-dev libjansson-dev
             libopenblas-serial-dev|libopenblas-pthread-dev|libopenblas-openmp-dev libpcre2-dev libutf8proc-dev nettle-dev"
    [run]="libmicrohttpd12 libjansson4 libopenblas0-serial|libopenblas0-pthread|libopenblas0-openmp
           libpcre2-8-0 libutf8proc2 libnettle8"
    [test]="libcmocka-dev python3"
    [ci]="clang libclang-rt-14-dev llvm"
    [cross]="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
    [quickstart]="curl python3"
)

say() { printf '%s\n' "$*" >&2; }

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

is_installed() {
    local state
    state=$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) && [ "$state" = installed ]
}

# 'a|b|c' -> nothing when one of them is installed, else the first.
missing_of() {
    local choices choice
    IFS='|' read -ra choices <<<"$1"
    for choice in "${choices[@]}"; do
        is_installed "$choice" && return
    done
    printf '%s\n' "${choices[0]}"
}

wanted=() print=
for argument in "$@"; do
    if [ "$argument" = --print ]; then
        print=1
    elif [ -n "${PACKAGES[$argument]:-}" ]; then
        read -ra group <<<"${PACKAGES[$argument]//$'\n'/ }"
        wanted+=("${group[@]}")
    else
        usage
    fi
done
[ ${#wanted[@]} -gt 0 ] || usage

if [ -n "$print" ]; then
    printf '%s\n' "${wanted[@]%%|*}" | sort -u
    exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "install-deps: this is not a Debian system; what is needed has to be there already (Debian's names):"
    say "  $(printf '%s\n' "${wanted[@]%%|*}" | sort -u | tr '\n' ' ')"
    exit 0
fi

read -ra missing <<<"$(for package in "${wanted[@]}"; do missing_of "$package"; done | sort -u | tr '\n' ' ')"
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        say "install-deps: missing: ${missing[*]}"
        say "  This is neither root nor is there a sudo. As root, run:  apt-get install --no-install-recommends ${missing[*]}"
        exit 1
    fi
    as_root=(sudo)
fi

say "install-deps: installing ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# An update that fails in part (a mirror of something else) does not matter if what we need can be installed.
if ! { "${apt[@]}" update || true; "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    say "install-deps: apt-get could not install: ${missing[*]}"
    # shellcheck source=/dev/null
    say "  The names are those of Debian 12 (bookworm); this is $(. /etc/os-release && printf '%s' "${PRETTY_NAME:-unknown}")."
    exit 1
fi
