#!/usr/bin/env bash
# Who may include whom: floors.sh [ROOT]. A folder of src/ includes itself, the folders of its row, and <lorad/...> as listed.
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/../..}"

# folder: what it may include beside itself
FLOORS='
base:    <lorad/error.h>
formats: <lorad/error.h> base
text:    <lorad/error.h> base
kernels: <lorad/error.h> base
model:   <lorad/error.h> <lorad/types.h> kernels formats base
lora:    <lorad/error.h> <lorad/types.h> model kernels formats base
engine:  <lorad/error.h> <lorad/types.h> <lorad/lorad.h> model kernels text formats base
lorad:   <lorad/error.h> <lorad/types.h> <lorad/lorad.h> engine lora model text kernels formats base
http:    <lorad/error.h> <lorad/types.h> <lorad/lorad.h> base
cli:     <lorad/error.h> <lorad/types.h> <lorad/lorad.h> http base
public:  <lorad/error.h> <lorad/types.h>
'

declare -A allowed
while read -r folder row; do
    [ -n "$folder" ] && allowed[${folder%:}]=" ${folder%:} $row "
done <<<"$FLOORS"

n_wrong=0
complain() {
    printf '%s\n' "$*"
    n_wrong=$((n_wrong + 1))
}

# "file:line:#include ..." -> is that arrow in the table?
check() {
    local file=$1 line=$2 included=$3 folder target
    case "$file" in
    include/*) folder=public ;;
    *) folder=${file#src/} folder=${folder%%/*} ;;
    esac
    case "$included" in
    '"'*/*'"') target=${included#'"'} target=${target%%/*} ;;
    '"'*'"')
        complain "$file:$line: $included: say which folder it is in, by its path from src/"
        return
        ;;
    '<lorad/'*) target=$included ;;
    *) return ;; # the system's
    esac
    if [ -z "${allowed[$folder]:-}" ]; then
        complain "$file:$line: the folder $folder has no row in tests/lint/floors.sh"
    elif [[ ${allowed[$folder]} != *" $target "* ]]; then
        complain "$file:$line: $folder must not include $included"
    fi
}

n_arrows=0
while IFS=: read -r file line text; do
    check "$file" "$line" "$(sed -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<][^">]*[">]).*/\1/' <<<"$text")"
    n_arrows=$((n_arrows + 1))
done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"|^[[:space:]]*#[[:space:]]*include[[:space:]]*<lorad/' src include --include='*.[ch]')

[ $n_arrows -gt 0 ] || complain "no include was found at all"
echo "floors: $n_arrows includes, $n_wrong wrong"
[ $n_wrong -eq 0 ]
