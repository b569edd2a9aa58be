#!/usr/bin/env bash
# The ten longest functions, for a look now and then; no limit: longest.sh [ROOT].
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

# A function begins at a line in column 1 that has '(' and no ';', and its body at '{' in column 1 or at that line's end; it ends with '}' in column 1.
# shellcheck disable=SC2016 # awk's own $0
find src -name '*.c' | sort | xargs awk '
    FNR == 1 { head = ""; open = 0 }
    !open && /^[A-Za-z_].*\(/ && !/;[ \t]*$/ && !/^#/ && !/=[^=]*$/ { head = $0; start = FNR }
    !open && head != "" && (/^\{/ || /\)[ \t]*\{[ \t]*$/) { open = 1 }
    open && /^\}/ {
        name = head; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name)
        printf "%5d  %s:%d %s\n", FNR - start + 1, FILENAME, start, name
        head = ""; open = 0
    }' | sort -rn | sed -n 1,10p
