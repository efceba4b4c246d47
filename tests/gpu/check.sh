#!/bin/sh
# Checks and measures the CUDA backend on a real GPU, and writes one report: tests/gpu/report.md and report.json.
#   tests/gpu/check.sh               needs a GPU, its driver, nvcc and CMake; no network, no OpenBLAS, nothing to install
#   tests/gpu/check.sh --no-report   the same, printed only
# BUILD (default build-gpu) is the build folder, PYTHON (python3) one that may have PyTorch: then random cases of every op
# are held against it, and its RMSNorm is timed beside ours. Every part has a limit of its own; what does not fit into
# nine minutes is left out. What did not run is in the report with the reason.
set -u
here=$(cd "$(dirname "$0")" && pwd) || exit 1
root=$(cd "$here/../.." && pwd) || exit 1
cd "$root" || exit 1
write=yes
case ${1:-} in
"") ;;
--no-report) write=no ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
build=${BUILD:-build-gpu} jobs=$(nproc 2>/dev/null || echo 4)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
began=$(date +%s)
TOTAL=520 # seconds, for all parts

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
if [ -z "$gpu" ]; then
    echo "tests/gpu/check.sh: no NVIDIA GPU here (nvidia-smi finds none); nothing was checked and no report written" >&2
    exit 1
fi
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
clocks=$(nvidia-smi --query-gpu=clocks.sm,clocks.mem --format=csv,noheader | head -n 1)
toolkit=$(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')

md=$work/report.md json=$work/report.json failures=0 stop_is_failure=yes
: >"$md" && : >"$json"
say() { printf '%s\n' "$*" >>"$md"; }
# Text as the inside of a JSON string.
quote() { printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# part NAME LIMIT COMMAND...: runs it, keeps its output in $work/NAME.log, notes how it ended.
part() {
    name=$1 limit=$2
    shift 2
    echo "== $name" >&2
    start=$(date +%s)
    left=$((began + TOTAL - start))
    if [ $left -lt 5 ]; then
        skip "$name" "no time left of $TOTAL s"
        return 1
    fi
    [ "$limit" -le $left ] || limit=$left
    timeout "$limit" "$@" >"$work/$name.log" 2>&1
    status=$?
    took=$(($(date +%s) - start))
    case $status in
    0) how=passed ;;
    124) how="stopped after $limit s" ;;
    *) how="failed ($status)" ;;
    esac
    if [ $status -eq 124 ] && [ $stop_is_failure = no ] && ! grep -q '^========= [EIPRUB]' "$work/$name.log"; then
        how="no finding, $how"
    elif [ $status -ne 0 ]; then
        failures=$((failures + 1))
    fi
    printf '| %s | %s | %s s |\n' "$name" "$how" "$took" >>"$work/parts"
    printf '{"part": "%s", "result": "%s", "seconds": %s}\n' "$name" "$how" "$took" >>"$json"
    return $status
}
skip() {
    printf '| %s | skipped: %s | |\n' "$1" "$2" >>"$work/parts"
    printf '{"part": "%s", "result": "skipped", "why": "%s"}\n' "$1" "$(quote "$2")" >>"$json"
}
# The end of a part's output, for a reader who wants to know why.
show() {
    say "" && say '```text'
    tail -n "$2" "$work/$1.log" | cut -c 1-200 >>"$md"
    say '```'
}

generator="Unix Makefiles"
command -v ninja >/dev/null && generator=Ninja
part configure 60 cmake -S . -B "$build" -G "$generator" -DBOBBIN_TESTS=ON -DBOBBIN_CUDA=ON \
    -DBOBBIN_CUDA_ARCHITECTURES="$capability" -DBOBBIN_TEST_BACKEND="$root/$build" &&
    part build 240 cmake --build "$build" -j "$jobs"
built=$?
export BOBBIN_BACKEND_PATH="$root/$build" OMP_WAIT_POLICY=passive

if [ $built -eq 0 ]; then
    part suite 150 ctest --test-dir "$build" -L cuda -j "$((jobs / 2 + 1))" --output-on-failure --no-tests=error

    part bench-gpu 60 "$build/bobbin" bench gpu --device cuda --json
    part bench-train 40 "$build/bobbin" bench train --device cuda --json

    # A process a case: as many cases as the limit has room for, each op a few times.
    python=${PYTHON:-python3}
    if "$python" -c 'import numpy, torch; assert torch.cuda.is_available()' 2>/dev/null; then
        part parity 80 env BOBBIN="$root/$build/bobbin" "$python" tests/reference/reference.py live --cases 140 --device cuda
        part torch-bench 90 "$python" tests/gpu/torch_bench.py
    else
        skip parity "$python has no numpy and no PyTorch that finds the GPU (PYTHON names another)"
        skip torch-bench "as parity"
    fi

    # Slow, so last: all tools on the norms first. One that its limit stops has found nothing so far, which is no failure.
    stop_is_failure=no
    if command -v compute-sanitizer >/dev/null; then
        for program in cuda.test_rms_norm cuda.test_sdpa ops.test_cross_entropy; do
            for tool in memcheck racecheck initcheck synccheck; do
                [ -x "$build/tests/$program" ] || continue
                part "$tool-$program" 30 env BOBBIN_TEST_DEVICE=cuda \
                    compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/$program"
            done
        done
    else
        skip compute-sanitizer "not installed"
    fi
fi

took=$(($(date +%s) - began))
{
    echo "# The CUDA backend on a real GPU"
    echo
    echo "Written by \`tests/gpu/check.sh\`. Ratios within this one run mean something; figures from two runs do not compare."
    echo
    echo "| date | GPU | compute capability | driver | CUDA toolkit | clocks (SM, memory) at the start | seconds |"
    echo "|---|---|---|---|---|---|---|"
    echo "| $(date -u +%Y-%m-%d) | $gpu | $capability | $driver | $toolkit | $clocks | $took |"
    echo
    echo "| part | result | time |"
    echo "|---|---|---|"
    cat "$work/parts"
} >"$work/head.md"
for name in suite bench-gpu bench-train torch-bench parity; do
    [ -s "$work/$name.log" ] || continue
    say "" && say "## $name"
    show "$name" 80
done
for log in "$work"/*check-*.log; do
    grep -q 'ERROR SUMMARY: [1-9]' "$log" 2>/dev/null || continue
    name=$(basename "$log" .log)
    say "" && say "## $name"
    show "$name" 30
done
cat "$work/head.md" "$md" >"$work/whole.md"
{
    printf '{"date": "%s", "gpu": "%s", "capability": "%s", "driver": "%s", "toolkit": "%s", "seconds": %s, "parts": [\n' \
        "$(date -u +%Y-%m-%d)" "$(quote "$gpu")" "$capability" "$driver" "$toolkit" "$took"
    sed '$!s/$/,/' "$json"
    printf '], "figures": [\n'
    cat "$work"/bench-gpu.log "$work"/bench-train.log "$work"/torch-bench.log 2>/dev/null | grep '^{' | sed '$!s/$/,/'
    printf ']}\n'
} >"$work/whole.json"
if [ $write = yes ]; then
    cp "$work/whole.md" "$here/report.md" && cp "$work/whole.json" "$here/report.json"
    echo "report: tests/gpu/report.md, tests/gpu/report.json ($took s, $failures parts failed)"
else
    cat "$work/whole.md"
fi
[ "$failures" -eq 0 ]
