#!/usr/bin/env bash
# From a fresh Debian 12 to a running daemon: installs what is missing, builds, serves the demo model with its adapters, and shows one
# generation through each.
#
#   deploy/quickstart.sh              all of it; the daemon goes on in the background
#   deploy/quickstart.sh --no-serve   installs and builds only
#   deploy/quickstart.sh --stop       stops the daemon
#
# LORAD_LISTEN=HOST:PORT says where to listen (127.0.0.1:8080; port 0: any free one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUILD=build
PROGRAM=$BUILD/src/lorad
PID_FILE=$BUILD/quickstart.pid
LOG=$BUILD/quickstart.log
STATE=$BUILD/quickstart-state
START_SECONDS=120
STOP_SECONDS=40

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
fail() {
    printf '\nquickstart: %s\n' "$*" >&2
    exit 1
}

usage() {
    sed -n '5,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# The process of the pid file, if it still is our daemon and not another that got its number.
running_pid() {
    local pid
    [ -s $PID_FILE ] && pid=$(<$PID_FILE) && [[ $pid =~ ^[0-9]+$ ]] || return 1
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *"$PROGRAM serve "* ]] || return 1
    printf '%s' "$pid"
}

stop() {
    local pid i
    if ! pid=$(running_pid); then
        rm -f $PID_FILE
        return 1
    fi
    kill -TERM "$pid"
    for ((i = 0; i < STOP_SECONDS * 10; i++)); do
        if ! running_pid >/dev/null; then
            rm -f $PID_FILE
            return 0
        fi
        sleep 0.1
    done
    fail "the daemon (process $pid) did not end within $STOP_SECONDS seconds; see $LOG"
}

build() {
    [ -e /proc/self ] || fail "/proc is not mounted here: mount -t proc proc /proc"
    step "Packages"
    deploy/install-deps.sh build run quickstart || fail "packages are missing, see above"
    say "all there"

    step "Build"
    [ -f $BUILD/build.ninja ] || meson setup $BUILD --buildtype=release >$BUILD.setup.log 2>&1 || {
        tail -n 20 $BUILD.setup.log >&2
        fail "meson could not configure the build; the whole output is in $BUILD.setup.log"
    }
    rm -f $BUILD.setup.log
    ninja -C $BUILD src/lorad >$BUILD/quickstart.build.log 2>&1 || {
        tail -n 30 $BUILD/quickstart.build.log >&2
        fail "the build failed, see above (if $BUILD/ comes from elsewhere, remove it and try again)"
    }
    say "$($PROGRAM --version) in $PROGRAM"
}

adapter_flags() {
    local config directory
    for config in adapters/*/adapter_config.json; do
        [ -f "$config" ] || fail "there are no adapters in adapters/"
        directory=$(dirname "$config")
        printf '%s\n' --adapter "$(basename "$directory")=$directory"
    done
}

# Sets ADDRESS from the line that the daemon prints when it is ready.
start() {
    local flags pid i
    step "Start"
    if stop; then
        say "stopped the daemon of an earlier run"
    fi
    mkdir -p $STATE
    mapfile -t flags < <(adapter_flags)
    : >$LOG
    setsid $PROGRAM serve --model models/demo "${flags[@]}" --adapters-dir adapters --state-dir $STATE \
        --listen "${LORAD_LISTEN:-127.0.0.1:8080}" </dev/null >>$LOG 2>&1 &
    pid=$!
    echo $pid >$PID_FILE
    for ((i = 0; i < START_SECONDS * 10; i++)); do
        ADDRESS=$(sed -n 's|.* ready on \(http://[^ ]*\).*|\1|p' $LOG)
        if [ -n "$ADDRESS" ]; then
            ADDRESS=${ADDRESS/0.0.0.0/127.0.0.1}
            curl -fsS "$ADDRESS/ready" >/dev/null || fail "the daemon says that it is ready, but $ADDRESS/ready does not; see $LOG"
            grep ' ready on ' $LOG
            return
        fi
        if ! kill -0 $pid 2>/dev/null; then
            cat $LOG >&2
            rm -f $PID_FILE
            fail "the daemon did not start, its reason is above (another address: LORAD_LISTEN=127.0.0.1:8081 $0)"
        fi
        sleep 0.1
    done
    fail "the daemon is not ready after $START_SECONDS seconds; see $LOG"
}

# The request for an adapter's first held-out example; the base's when the adapter is "".
request_body() {
    python3 - "$1" "$2" <<'PYTHON'
import json, sys
adapter, example = sys.argv[1:]
with open(example, encoding="utf-8") as lines:
    body = {"prompt": json.loads(lines.readline())["prompt"], "max_tokens": 100, "temperature": 0}
if adapter:
    body["adapter"] = adapter
print(json.dumps(body))
PYTHON
}

generate() {
    local adapter=$1 example=$2 answer
    answer=$(request_body "$adapter" "$example" | curl -sS "$ADDRESS/v1/generate" -H 'Content-Type: application/json' -d @-) ||
        fail "no answer from $ADDRESS"
    python3 - "${adapter:-(base)}" "$example" "$answer" <<'PYTHON' || fail "adapter '$adapter' did not answer: $answer"
import json, sys
adapter, example, answer = sys.argv[1:]
with open(example, encoding="utf-8") as lines:
    prompt = json.loads(lines.readline())["prompt"]
text = json.loads(answer)["text"].strip().split("\n")[0]
shown = prompt.removeprefix("Input: ").removesuffix("\nOutput:")
print(f"{adapter:>10}  {shown}\n{'':>10}  -> {text[:110]}")
PYTHON
}

show() {
    local config adapter example body shown=
    step "One generation through each adapter"
    for config in adapters/*/adapter_config.json; do
        adapter=$(basename "$(dirname "$config")")
        example=tests/data/demo/$adapter.jsonl
        if [ ! -f "$example" ]; then
            say "$(printf '%10s' "$adapter")  (loaded; no example for it in tests/data/demo)"
            continue
        fi
        generate "$adapter" "$example"
        shown=$adapter
    done
    [ -n "$shown" ] || fail "there is no example for any adapter in tests/data/demo"
    example=tests/data/demo/$shown.jsonl
    step "The same model without an adapter, for comparison"
    generate "" "$example"

    body=$(request_body "$shown" "$example")
    step "It serves at $ADDRESS"
    cat <<TEXT
Ask it:        curl -s $ADDRESS/v1/generate -d '${body//\'/\\u0027}'
Adapters:      curl -s $ADDRESS/v1/adapters
Unload one:    curl -s -X DELETE $ADDRESS/v1/adapters/$shown
Load it again: curl -s -X PUT $ADDRESS/v1/adapters/$shown -d '{"path": "$shown"}'
Figures:       curl -s $ADDRESS/metrics
Log:           $LOG
Stop it:       deploy/quickstart.sh --stop
TEXT
}

case "${1:-}" in
"")
    build
    start
    show
    ;;
--no-serve)
    build
    ;;
--stop)
    if stop; then
        say "stopped"
    else
        say "it is not running"
    fi
    ;;
--help | -h)
    usage
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
