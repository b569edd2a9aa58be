#!/usr/bin/env bash
# Words that say that something is unfinished, and places that only one machine has: words.sh [ROOT].
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

UNFINISHED='\b(TODO|FIXME|XXX|HACK)\b|\b[Ff]or now\b|\bnot (yet )?implemented\b|\bplaceholder\b'
ALLOWED_WORDS='stands for now|\bfor now, then in\b' # said of time
PLACES='(^|[^A-Za-z0-9_./-])(\.\./)*shared/|(^|[^A-Za-z0-9_./-])/(work|root|home/[a-z]+|opt/oracle)/'
ALLOWED_PLACE='LORAD_TEST_DATA|shared/data' # the optional real data of the tests

sources() {
    find . \( -path './build*' -o -path ./.git -o -path ./tests/lint/words.sh -o -path ./tests/data -o -path ./tests/fuzz/corpus \
        -o -path ./tests/golden/models -o -path ./tests/golden/adapters -o -path ./models -o -path ./adapters \
        -o -path ./tools/tokenizer_diff/strings.py \) -prune -o -type f \
        \( -name '*.[ch]' -o -name '*.py' -o -name '*.sh' -o -name '*.md' -o -name 'meson*' -o -path './deploy/*' -o -path './.ci/*' \) -print0
}

n_wrong=0
report() {
    [ -n "$1" ] || return 0
    printf '%s\n' "$1"
    n_wrong=$((n_wrong + $(wc -l <<<"$1")))
}

n_files=$(sources | tr -cd '\0' | wc -c)
[ "$n_files" -gt 0 ] || { echo "no file was found"; exit 1; }
report "$(sources | xargs -0 grep -nHE "$UNFINISHED" | grep -vE "$ALLOWED_WORDS" || true)"
report "$(sources | xargs -0 grep -nHE "$PLACES" | grep -vE "$ALLOWED_PLACE" || true)"
echo "words: $n_files files, $n_wrong lines"
[ $n_wrong -eq 0 ]
