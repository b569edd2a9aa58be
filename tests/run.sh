#!/usr/bin/env bash
# Builds and tests everything: unit, kernels, golden, quality, http, stress, churn and lint suites; then the golden ones once for each other
# instruction set that this CPU has, since their answers must not change.
#
#   tests/run.sh [--quick] [--sanitize address|thread] [--compiler CC] [--werror] [--build DIR] [--suite NAME]...
#
#   --quick               without the churn suite and the other instruction sets
#   --sanitize address    in a build with AddressSanitizer and UndefinedBehaviorSanitizer
#   --sanitize thread     in a build with ThreadSanitizer
#   --compiler CC         builds with CC (cc)
#   --werror              warnings are errors
#   --build DIR           the build directory (build-test, or build-address, build-thread)
#   --suite NAME          only this suite; may be given several times
#
# Missing Debian packages are installed first when this is root or has sudo. The last line says 'N passed, N failed, N skipped'; the exit
# code is 0 when all passed, 1 when not, 2 for a wrong command line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick='' sanitize='' compiler='' werror=false build='' suites=()
runs=() # testlog.json of every run

usage() {
    sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

wrong_usage() {
    usage >&2
    exit 2
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --quick) quick=1 ;;
        --werror) werror=true ;;
        --sanitize | --compiler | --build | --suite)
            [ $# -ge 2 ] || wrong_usage
            case "$1" in
            --sanitize) sanitize=$2 ;;
            --compiler) compiler=$2 ;;
            --build) build=$2 ;;
            --suite) suites+=("$2") ;;
            esac
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) wrong_usage ;;
        esac
        shift
    done
    case "$sanitize" in
    '' | address | thread) ;;
    *) wrong_usage ;;
    esac
    [ -n "$build" ] || build=build-${sanitize:-test}
}

# A build directory of an earlier run is configured again, since that may have had other options.
configure() {
    local options=(--buildtype=debugoptimized "-Dwerror=$werror")
    case "$sanitize" in
    '') options+=(-Db_sanitize=none) ;;
    address) options+=("-Db_sanitize=address,undefined" -Db_lundef=false) ;;
    thread) options+=(-Db_sanitize=thread -Db_lundef=false) ;;
    esac
    if [ -f "$build/build.ninja" ]; then
        options+=(--reconfigure)
    fi
    ${compiler:+env CC="$compiler"} meson setup "$build" "${options[@]}"
}

# What the sanitizers should do; and the word to the tests that everything is slower.
sanitizer_environment() {
    [ -n "$sanitize" ] || return 0
    export LORAD_TEST_SANITIZED=$sanitize
    # Not detect_stack_use_after_return: GCC 12 then aligns a frame to less than what AVX-512 needs.
    export ASAN_OPTIONS=strict_string_checks=1
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
}

# ThreadSanitizer of GCC 12 knows only the memory layouts of older kernels; without address randomisation it always finds its place.
under_sanitizer() {
    if [ "$sanitize" = thread ] && setarch "$(uname -m)" -R true 2>/dev/null; then
        setarch "$(uname -m)" -R "$@"
    else
        "$@"
    fi
}

# run_suites NAME [meson test arguments]: keeps the log as testlog-NAME.
run_suites() {
    local name=$1 log=$build/meson-logs/testlog-$1.json
    shift
    rm -f "$log"
    under_sanitizer meson test -C "$build" --no-rebuild --print-errorlogs --logbase "testlog-$name" \
        --timeout-multiplier "$([ -n "$sanitize" ] && echo 4 || echo 1)" "$@" || true
    [ -f "$log" ] || {
        echo "run.sh: meson ran no test ($name)" >&2
        exit 1
    }
    runs+=("$log")
}

# Instruction sets that are not chosen by themselves here: those that are slower than the one which is, and what has bits of its own.
other_instruction_sets() {
    local flags
    if [ "$(uname -m)" = aarch64 ]; then
        echo c
        grep -qw asimddp /proc/cpuinfo && echo neon
        return 0
    fi
    flags=" $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1) "
    echo c
    [[ $flags == *" avx512bw "* || $flags == *" avx_vnni "* ]] && echo avx2
    [[ $flags == *" avx512bw "* && $flags == *" avx_vnni "* ]] && echo avxvnni
    [[ $flags == *" avx512_vnni "* ]] && echo avx512
    [[ $flags == *" avx512_bf16 "* || $flags == *" amx_int8 "* ]] && echo avx512vnni
    # Tiles are the system's to grant too: lorad knows, and looks at the set first.
    [[ $("$build/src/lorad" bench --model /nowhere --cpu avx512amxbf16 --limits-seconds 0.001 --limits-buffer 1M 2>&1) == *'instruction set'* ]] ||
        echo avx512amxbf16
    return 0
}

run_everything() {
    local set arguments=()
    if [ ${#suites[@]} -gt 0 ]; then
        for set in "${suites[@]}"; do
            arguments+=(--suite "$set")
        done
        run_suites main "${arguments[@]}"
        return
    fi
    run_suites main ${quick:+--no-suite churn}
    if [ -z "$quick" ] && [ -z "$sanitize" ]; then
        for set in $(other_instruction_sets); do
            echo "== golden suite with LORAD_CPU=$set"
            LORAD_CPU=$set run_suites "$set" --suite golden
        done
    fi
}

parse_arguments "$@"
deploy/install-deps.sh build run test
configure >"build-configure.$$.log" 2>&1 || {
    tail -n 30 "build-configure.$$.log" >&2
    rm -f "build-configure.$$.log"
    echo "run.sh: meson could not configure $build" >&2
    exit 1
}
rm -f "build-configure.$$.log"
ninja -C "$build"
sanitizer_environment
run_everything
exec python3 tests/tally.py "${runs[@]}"
