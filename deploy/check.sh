#!/usr/bin/env bash
# Installs what the tests need, builds, and runs all tests. --long adds what takes longer: clang-tidy
# on every file, the thread sanitizer, and the long runs of single tests.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

long=
case "${1:-}" in
    '') ;;
    --long) long=1; export MILLRACE_LONG=1 ;;
    *) echo "usage: $0 [--long]" >&2; exit 2 ;;
esac

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0 failed=0 skipped=0

# part NAME COMMAND...: runs it, prints its seconds, shows its output when it fails.
part() {
    local name=$1 log="$logs/$1" begun=$SECONDS status
    shift
    [ ! -t 1 ] || printf '%-28s ...\r' "$name" # on a terminal: what is being waited for
    "$@" >"$log" 2>&1
    status=$?
    printf '%-28s %4d s  %s\n' "$name" $((SECONDS - begun)) "$([ $status -eq 0 ] && echo ok || echo FAILED)"
    [ $status -eq 0 ] || tail -n 60 "$log"
    return $status
}

# one NAME COMMAND...: a part that counts as one test.
one() {
    if part "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# needed NAME COMMAND...: a part without which nothing else makes sense.
needed() {
    part "$@" || { failed=$((failed + 1)); finish; }
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}

# Sum of the numbers that stand before or after a word in the log of a part.
sum() { grep -oE "$2" "$logs/$1" | grep -oE '[0-9]+' | awk '{ n += $1 } END { print n + 0 }'; }

# cmocka NAME COMMAND...: counts the cases inside the programs that ctest runs. A program that died
# without a verdict counts as one failure.
cmocka() {
    part "$@" || true
    local bad
    bad=$(sum "$1" 'FAILED  \] [0-9]+ test')
    grep -qE 'tests passed, 0 tests failed' "$logs/$1" || [ "$bad" -gt 0 ] || bad=1
    passed=$((passed + $(sum "$1" 'PASSED  \] [0-9]+ test')))
    skipped=$((skipped + $(sum "$1" 'SKIPPED \] [0-9]+ test')))
    failed=$((failed + bad))
    grep -hE 'SKIP:' "$logs/$1" | sed 's/^[0-9]*: */  /' | sort -u
}

# lines NAME COMMAND...: a command that prints a line "ok ..." or "FAILED ..." for each of its tests.
lines() {
    part "$@" || true
    local bad
    bad=$(grep -cE '^FAILED ' "$logs/$1")
    grep -qE '^(ok|FAILED) ' "$logs/$1" || bad=1
    passed=$((passed + $(grep -cE '^ok ' "$logs/$1")))
    failed=$((failed + bad))
}

pytests() {
    part "$@" || true
    local last
    last=$(grep -E '(passed|failed|skipped|error|no tests ran).* in ' "$logs/$1" | tail -n 1)
    count() { echo "$last" | grep -oE "[0-9]+ $1" | grep -oE '[0-9]+' || echo 0; }
    passed=$((passed + $(count passed)))
    skipped=$((skipped + $(count skipped)))
    failed=$((failed + $(count failed) + $(count error)))
    [ -n "$last" ] || failed=$((failed + 1))
    grep -hE '^SKIPPED' "$logs/$1" | sed 's/^/  /'
}

sources() { git ls-files '*.c' '*.h'; }
style() { sources | xargs clang-format --dry-run -Werror; }
tidy() { git ls-files '*.c' | grep -vE '_neon|^deploy' | xargs -P 2 -n 4 clang-tidy --quiet -p build/asan; }
# What is missing to run programs for 64-bit Arm here; false: nothing.
arm64_lacks() {
    local tool
    for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: deploy/setup.sh --tests"; return 0; }
    done
    return 1
}
build() { cmake --preset "$1" && cmake --build --preset "$1"; }

needed packages ./deploy/setup.sh --tests
needed build-release build release
needed build-asan build asan
needed build-fuzz build fuzz
one build-clang build clang
one style style
one dependencies tests/deps_test.sh
export PYTHONDONTWRITEBYTECODE=1
lines fuzz tests/fuzz/run.sh "$([ -n "$long" ] && echo 60 || echo 10)"
cmocka unit-tests ctest --preset asan -V -j2
if [ "$(uname -m)" = aarch64 ]; then
    : # they were among the unit tests
elif lacking=$(arm64_lacks); then
    skipped=$((skipped + 1))
    echo "  SKIP: kernels of 64-bit Arm: $lacking"
else
    one build-arm64 build arm64
    cmocka arm64-tests ctest --preset arm64 -V -j2
fi
pytests service-tests /usr/bin/python3 -m pytest -rs -c tests/pytest.ini tests --ignore=tests/line
pytests line-tests /usr/bin/python3 -m pytest -rs -c tests/pytest.ini tests/line
if [ -n "$long" ]; then
    one clang-tidy tidy
    needed build-tsan build tsan
    cmocka tsan-tests ctest --preset tsan -V -R 'base|run|model'
fi
finish
