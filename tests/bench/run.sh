#!/usr/bin/env bash
# Measures everything that docs/engine-figures.md shows, and draws it: models with random weights at the shape of real ones, every scenario of
# `lorad bench`, JSON, SVG, the page's table.
#
#   tests/bench/run.sh [--quick] [--lorad PATH] [--models DIR] [--out DIR] [--threads N] [--shape NAME]... [--scenario NAME]...
#
#   --quick           a few minutes on the small shape, to see that all works; the page is left alone
#   --lorad PATH      the program (build-bench/src/lorad, built here in release mode)
#   --models DIR      where the models are made, or are already (lorad-bench-models in $TMPDIR or /tmp; 3.5 GB)
#   --out DIR         for JSON and SVG (docs/figures; quick: lorad-bench-quick in $TMPDIR or /tmp)
#   --threads N       compute threads (the cores that are granted)
#   --shape NAME      only this one: qwen2.5-0.5b, llama-3.2-1b; may be given several times
#   --scenario NAME   only this one: steady, mix-8, mix-32, ranks, adapters, merge, swap, starvation, prefix; may be given several times
#
# The machine should have nothing else to do. Figures of an earlier run that are not measured again are kept and drawn too. The exit code is 0
# when all was measured, 1 when not, 2 for a wrong command line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

quick='' lorad='' models='' out='' threads='' shapes=() scenarios=() failed=()

wrong_usage() {
    sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --quick) quick=1 ;;
        --lorad | --models | --out | --threads | --shape | --scenario)
            [ $# -ge 2 ] || wrong_usage
            case "$1" in
            --lorad) lorad=$2 ;;
            --models) models=$2 ;;
            --out) out=$2 ;;
            --threads) threads=$2 ;;
            --shape) shapes+=("$2") ;;
            --scenario) scenarios+=("$2") ;;
            esac
            shift
            ;;
        --help | -h)
            sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) wrong_usage ;;
        esac
        shift
    done
    local temporary=${TMPDIR:-/tmp}
    [ -n "$models" ] || models=$temporary/lorad-bench-models
    [ -n "$out" ] || out=${quick:+$temporary/lorad-bench-quick}
    [ -n "$out" ] || out=docs/figures
    if [ ${#shapes[@]} -eq 0 ]; then
        shapes=(qwen2.5-0.5b)
        [ -n "$quick" ] || shapes+=(llama-3.2-1b)
    fi
    [ ${#scenarios[@]} -gt 0 ] || scenarios=(steady mix-8 mix-32 ranks adapters merge swap starvation prefix)
}

build() {
    [ -z "$lorad" ] || return 0
    [ -f build-bench/build.ninja ] || meson setup build-bench --buildtype=release >/dev/null
    ninja -C build-bench src/lorad >/dev/null
    lorad=build-bench/src/lorad
}

# Whole or not at all, so that an interrupted run leaves nothing that looks like a model.
make_model() {
    local shape=$1
    [ ! -f "$models/$shape/model.safetensors" ] || return 0
    echo "== making $models/$shape" >&2
    rm -rf "$models/$shape" "$models/$shape.part"
    mkdir -p "$models"
    python3 tools/random_model.py "$shape" "$models/$shape.part"
    mv "$models/$shape.part" "$models/$shape"
}

# How many adapters may be resident: with memory for 256 of the larger shape or not.
adapter_points() {
    local available
    available=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
    if [ "$available" -ge 16 ]; then
        echo 1,4,16,64,256
    else
        echo 1,4,16,64
    fi
}

# The flags of a scenario, one a line.
flags_of() {
    if [ -n "$quick" ]; then
        case "$1" in
        steady) printf '%s\n' --scenario steady --prompt 128 --tokens 16 --repeats 2 ;;
        mix-8) printf '%s\n' --scenario mix --clients 8 --rank 16 --prompt 8 --tokens 12 --repeats 2 ;;
        mix-32) printf '%s\n' --scenario mix --clients 32 --rank 16 --prompt 4 --tokens 40 --repeats 1 ;;
        ranks) printf '%s\n' --scenario ranks --clients 4 --points 8,32,128 --prompt 8 --tokens 10 --repeats 2 ;;
        adapters) printf '%s\n' --scenario adapters --points 1,4,16,32 --clients 16 --prompt 4 --tokens 6 --repeats 1 ;;
        merge) printf '%s\n' --scenario merge --points 1,2,4 --prompt 4 --tokens 10 --repeats 2 ;;
        swap) printf '%s\n' --scenario swap --adapters 5 --merges 1 --tokens 32 --repeats 1 ;;
        starvation) printf '%s\n' --scenario starvation --flood 100 --requests 8 --period-ms 500 --prompt 4 --tokens 16 --repeats 1 ;;
        prefix) printf '%s\n' --scenario prefix --prompt 256 --requests 4 --repeats 2 ;;
        *) wrong_usage ;;
        esac
    else
        case "$1" in
        steady) printf '%s\n' --scenario steady --prompt 512 --tokens 64 ;;
        mix-8) printf '%s\n' --scenario mix --clients 8 --rank 16 --tokens 48 --repeats 7 ;;
        mix-32) printf '%s\n' --scenario mix --clients 32 --rank 16 --prompt 16 --tokens 96 --repeats 3 ;;
        ranks) printf '%s\n' --scenario ranks --clients 8 ;;
        adapters) printf '%s\n' --scenario adapters --rank 16 --points "$(adapter_points)" --tokens 16 --repeats 1 ;;
        merge) printf '%s\n' --scenario merge --rank 16 --points 1,2,4,8 --repeats 3 ;;
        swap) printf '%s\n' --scenario swap --clients 4 --adapters 20 --merges 5 --rank 16 --repeats 1 ;;
        starvation) printf '%s\n' --scenario starvation --flood 200 --prompt 64 --tokens 16 --repeats 2 ;;
        prefix) printf '%s\n' --scenario prefix --prompt 1024 ;;
        *) wrong_usage ;;
        esac
    fi
}

measure() {
    local shape=$1 scenario=$2 flags begin=$SECONDS
    mapfile -t flags < <(flags_of "$scenario")
    [ ${#flags[@]} -gt 0 ] || wrong_usage
    echo "== $shape, $scenario" >&2
    if "$lorad" bench --model "$models/$shape" ${threads:+--threads "$threads"} "${flags[@]}" >"$out/$shape-$scenario.json.part"; then
        mv "$out/$shape-$scenario.json.part" "$out/$shape-$scenario.json"
    else
        rm -f "$out/$shape-$scenario.json.part"
        failed+=("$shape $scenario")
    fi
    echo "   $((SECONDS - begin)) s" >&2
}

# On what it was measured, for the page.
describe_machine() {
    python3 - "$out/machine.json" <<'EOF'
import json, os, platform, subprocess, sys, time
cpuinfo = open("/proc/cpuinfo").read()
name = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), platform.machine())
memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
json.dump({"cpu": name, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**20, 1), "commit": commit,
           "date": time.strftime("%Y-%m-%d", time.gmtime())}, open(sys.argv[1], "w"), indent=1)
EOF
}

parse_arguments "$@"
build
mkdir -p "$out"
describe_machine
for shape in "${shapes[@]}"; do
    make_model "$shape"
    for scenario in "${scenarios[@]}"; do
        measure "$shape" "$scenario"
    done
done
page=(--page docs/engine-figures.md)
[ -z "$quick" ] || page=()
python3 tools/plot_bench.py "$out" "${page[@]}"
printf '%d s in all; figures in %s\n' $SECONDS "$out"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'not measured: %s\n' "${failed[@]}"
    exit 1
fi
