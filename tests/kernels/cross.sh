#!/usr/bin/env bash
# The kernels of AArch64 on another machine: cross-compiled, warnings as errors, and checked bit for bit in an emulator.
#
#   tests/kernels/cross.sh [--whole] [gcc|clang]
#
# --whole: all cases, some minutes; else an eighth of them. Needs gcc-aarch64-linux-gnu with its C library, for clang too, and qemu-user (the
# group `cross` of deploy/install-deps.sh). Exit codes: 0 all passed, 1 something did not, 77 skipped: a compiler or the emulator is
# missing, this is an AArch64, whose own tests are better, or a build with sanitizers, which has no part in this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PREFIX=aarch64-linux-gnu
# As meson.build has them.
FLAGS=(-std=gnu11 -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -O3 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef
    -Wpointer-arith -Wvla -Wwrite-strings -Werror -Iinclude -Isrc -Itests -DKERNELS_HAVE_NEON -DKERNELS_HAVE_NEONDOT)
SOURCES=(src/base/{buffer,cgroup,cpu,error,file,huge,pool,utf8}.c src/kernels/{kernels,pack,reference,neon,neondot}.c tests/kernels/kit.c)

skip() {
    echo "skipped: $*"
    exit 77
}

quick=--quick
if [ "${1:-}" = --whole ]; then
    quick=
    shift
fi
case "${1:-gcc}" in
gcc)
    compiler=($PREFIX-gcc)
    FLAGS+=(-fno-schedule-insns)
    ;;
clang) compiler=(clang --target=$PREFIX) ;;
*) skip "no cross compiler is known for '$1'" ;;
esac
[ -z "${LORAD_TEST_SANITIZED:-}" ] || skip "this is a build with sanitizers"
[ "$(uname -m)" != aarch64 ] || skip "this is an AArch64"
command -v $PREFIX-gcc >/dev/null || skip "there is no $PREFIX-gcc"
command -v "${compiler[0]}" >/dev/null || skip "there is no ${compiler[0]}"
echo 'int main(void) { return 0; }' | "${compiler[@]}" -static -x c -o /dev/null - 2>/dev/null || skip "${compiler[0]} finds no C library of AArch64"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
    local source=$1 object
    object=$WORK/$(basename "$source" .c).o
    case "$source" in
    */neondot.c) set -- -march=armv8.2-a+dotprod ;;
    *) set -- ;;
    esac
    $COMPILE "$@" -c "$source" -o "$object"
}
export -f compile
export COMPILE="${compiler[*]} ${FLAGS[*]}" WORK=$work
# shellcheck disable=SC2016 # the inner shell's $1
printf '%s\0' "${SOURCES[@]}" tests/kernels/check_{kernels,packed}.c | xargs -0 -P "$(nproc)" -I{} bash -c 'compile "$1"' - {} || exit 1

objects=()
for source in "${SOURCES[@]}"; do
    objects+=("$work/$(basename "$source" .c).o")
done
for check in kernels packed; do
    "${compiler[@]}" -static -o "$work/check_$check" "$work/check_$check.o" "${objects[@]}" -lm -lpthread
done
echo "cross-compiled with ${compiler[*]}"

command -v qemu-aarch64 >/dev/null || skip "there is no qemu-aarch64 to run what was compiled"

# check CPU SETS PROGRAM: SETS are the ones that this CPU has to be found to have.
check() {
    qemu-aarch64 -cpu "$1" "$work/$3" $quick | tee "$work/log" || return 1
    grep -qx "instruction sets: $2" "$work/log" || {
        echo "on the CPU $1 not these instruction sets: $2"
        return 1
    }
}
code=0
check cortex-a57 "c neon" check_kernels || code=1
check max "c neon neondot" check_packed || code=1
exit $code
