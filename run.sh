#!/bin/sh
# Trains a small transformer, from nothing: installs what is missing, builds, trains, shows a sample.
#   ./run.sh                  the small model on the default text, about two minutes on two cores
#   ./run.sh --data FILE      on any text or binary file
#   ./run.sh ARGS             all ARGS go to `bobbin train`; ./run.sh --help lists them
set -u
here=$(cd "$(dirname "$0")" && pwd) || exit 1

# shellcheck source=tools/setup.sh
. "$here/tools/setup.sh"
bobbin_setup || exit 1

# Quiet unless something goes wrong. A second run finds everything built and takes a moment.
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
[ -x "$here/build/bobbin" ] || echo "Building bobbin"
targets="bobbin bobbin_shared" # the program, and the library that examples/bobbin.py loads
# The CUDA module takes minutes to compile; only where a GPU could run it.
if command -v nvcc >/dev/null && nvidia-smi >/dev/null 2>&1; then targets="$targets bobbin_cuda"; fi
# shellcheck disable=SC2086 # one word each
if ! (cd "$here" && { [ -f build/build.ninja ] || cmake --preset default; } && cmake --build --preset default --target $targets) >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "The build failed." >&2
    exit 1
fi
rm -f "$log"
trap - EXIT

# Paths in ARGS are the caller's, and so is the folder that `runs/` goes to.
exec "$here/build/bobbin" train "$@"
