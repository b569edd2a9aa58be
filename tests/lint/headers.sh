#!/usr/bin/env bash
# Every header compiles alone: headers.sh [ROOT]. CC says with which compiler.
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

# No headers but bodies: the same text compiled once for each instruction set, inside a file that says what a vector is; and that.
BODIES='src/kernels/(attend|rows|polynomial|panels|panel_sums|panel_elements|panel_groups|prepare|merge|select|avx2|avx512|avx512vnni|neon)\.h'

compile() {
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -Iinclude -Isrc -Itests -fsyntax-only -x c \
        -include "./$1" /dev/null || { echo "$1: does not compile alone"; return 1; }
}
export -f compile

mapfile -t headers < <(find include src tests -name '*.h' | grep -vE "^($BODIES)$" | sort)
n_headers=${#headers[@]}
[ "$n_headers" -gt 0 ] || { echo "no header was found"; exit 1; }
# shellcheck disable=SC2016 # the inner shell's $1
printf '%s\0' "${headers[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'compile "$1"' - {} || exit 1
echo "headers: $n_headers compile alone"
