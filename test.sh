#!/bin/sh
# Builds and runs the tests; the last line says `N passed, N failed, N skipped`. Exit status 1 if one failed.
#   ./test.sh                 all tests
#   ./test.sh core ops.test_add   only the programs whose names match (folder.test_stem)
#   ./test.sh --sanitize      the same under AddressSanitizer, LeakSanitizer and UBSan, in build-asan/
#   ./test.sh --live          also every op on random cases against PyTorch, where $PYTHON (python3) has it
set -u
cd "$(dirname "$0")" || exit 1

preset=test build=build-test match= live=
while [ $# -gt 0 ]; do
    case $1 in
    --sanitize) preset=sanitize build=build-asan ;;
    --live) live=1 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "test.sh: unknown option $1" >&2; exit 2 ;;
    *) match="$match${match:+|}$1" ;;
    esac
    shift
done

# Whatever stops us before the tests is one failure.
stop() {
    echo "test.sh: $1" >&2
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}

. tools/setup.sh
bobbin_setup || stop "setting up failed"
bobbin_onnx
cmake --preset "$preset" >"${TMPDIR:-/tmp}/bobbin-configure.$$" 2>&1 ||
    { cat "${TMPDIR:-/tmp}/bobbin-configure.$$"; stop "cmake --preset $preset failed"; }
rm -f "${TMPDIR:-/tmp}/bobbin-configure.$$"
cmake --build --preset "$preset" -j "${BOBBIN_JOBS:-2}" || stop "the build failed"

# Programs run side by side: threads that wait must not spin.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
# Not detect_stack_use_after_return: GCC 12 gives it stack frames too loosely aligned for AVX-512.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-suppressions=$PWD/tests/support/leaks.supp:print_suppressions=0}"
ctest --test-dir "$build" -j "${BOBBIN_JOBS:-2}" -R "${match:-.}" --output-on-failure --no-tests=error

# Every op on random cases against PyTorch (tests/reference/README.md).
live_log="${TMPDIR:-/tmp}/bobbin-live.$$"
python="${PYTHON:-python3}"
trap 'rm -f "$live_log"' EXIT
: >"$live_log"
if [ -n "$live" ] && "$python" -c 'import numpy, torch' 2>/dev/null; then
    {
        echo "live Testing: live"
        if BOBBIN="$build/bobbin" "$python" tests/reference/reference.py live \
            --cases "${BOBBIN_LIVE_CASES:-20000}" --seed "${BOBBIN_LIVE_SEED:-1}"; then
            echo "Test Passed."
        else
            echo "Test Failed."
        fi
    } 2>&1 | tee "$live_log"
elif [ -n "$live" ]; then
    printf 'live Testing: live\nskipped: live: %s has no torch and numpy (set PYTHON)\n%s\nTest Passed.\n' \
        "$python" "0 passed, 0 failed, 1 skipped" >"$live_log"
fi
echo

# Sums the programs' counting lines. One that ends without its line, or fails after it, counts as a failure.
awk '
    / Testing: / { name = $3; counted = failed_here = 0 }
    /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {
        passed += $1; failed += $3; skipped += $5; counted = 1; failed_here = $3
    }
    /^skipped: / { print name ": " $0 }
    /^FAILED: / { print name ": " $0 }
    /^Test (Passed|Failed)\./ {
        if (!counted) { failed++; print name ": FAILED: it ended without its result line" }
        else if ($2 == "Failed." && failed_here == 0) { failed++; print name ": FAILED: its exit status" }
    }
    END {
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0 || passed == 0
    }' "$build/Testing/Temporary/LastTest.log" "$live_log"
