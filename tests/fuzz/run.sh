#!/usr/bin/env bash
# run.sh SECONDS: every fuzz target of the preset `fuzz` for so long, two at a time. One line a target; what made
# it fail stays in build/fuzz/crashes.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-10}
work=$(mktemp -d /dev/shm/millrace-fuzz-XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
/usr/bin/python3 tests/fuzz/seeds.py "$work" || exit 1

one() {
    local target=$1 log="$work/$1.log" crashes="build/fuzz/crashes/$1-"
    mkdir -p build/fuzz/crashes
    # A single allocation, or all of them together, may never go beyond what the file pays for.
    if MILLRACE_FUZZ_FOLDER="$work/folder/$target" OPENBLAS_NUM_THREADS=1 \
        "build/fuzz/tests/${target}_fuzz" -max_total_time="$seconds" -timeout=5 -max_len=65536 \
        -rss_limit_mb=1024 -malloc_limit_mb=128 -artifact_prefix="$crashes" -print_final_stats=1 \
        "$work/corpus/$target" >"$log" 2>&1; then
        echo "ok     $target: $(grep -oE 'number_of_executed_units: +[0-9]+' "$log" | grep -oE '[0-9]+') inputs"
    else
        tail -n 40 "$log"
        echo "FAILED $target: see build/fuzz/crashes"
        return 1
    fi
}

bad=0
for pair in "gguf safetensors" "tokenizer mmproj" "message body" "answer medium"; do
    pids=()
    for target in $pair; do
        one "$target" & pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || bad=1; done
done
exit $bad
