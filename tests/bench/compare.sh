#!/bin/sh
# Times Bobbin and PyTorch in turns, so that both see the same machine, and prints the ratios as a Markdown table.
#   tests/bench/compare.sh FOLDER [ROUNDS]
# FOLDER holds torch_train.py and torch_norm.py, which print one JSON line a case with the keys of `bobbin bench --json`.
# PYTHON (default python3) runs them; BOBBIN_BIN (default build/bobbin) is ours; THREADS (default 2) is for both;
# MODELS (default "tiny small baby"), STEPS (default 20) and DTYPE (f32, the default, or bf16) choose what is trained; with bf16 no
# norms are timed.
set -u
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
peers=$1 rounds=${2:-3}
here=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
python=${PYTHON:-python3} bobbin=${BOBBIN_BIN:-$here/build/bobbin} threads=${THREADS:-2} models=${MODELS:-tiny small baby} steps=${STEPS:-20} dtype=${DTYPE:-f32}
case $dtype in
f32) torch_dtype=float32 ;;
bf16) torch_dtype=bfloat16 ;;
*)
    echo "compare.sh: DTYPE: expected f32 or bf16, got '$dtype'" >&2
    exit 2
    ;;
esac
rows=$(mktemp) || exit 1
trap 'rm -f "$rows"' EXIT

# PyTorch at its best on a CPU: a malloc that keeps its memory.
torch() {
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 OMP_NUM_THREADS=$threads "$python" "$@"
}

round=1
while [ "$round" -le "$rounds" ]; do
    for model in $models; do
        echo "round $round of $rounds: train $model" >&2
        "$bobbin" bench train --model "$model" --dtype "$dtype" --steps "$steps" --threads "$threads" --json >>"$rows" || exit 1
        torch "$peers/torch_train.py" "$model" --dtype "$torch_dtype" --steps "$steps" --threads "$threads" >>"$rows" || exit 1
    done
    if [ "$dtype" = f32 ]; then
        echo "round $round of $rounds: rms_norm" >&2
        "$bobbin" bench rms_norm --threads "$threads" --json >>"$rows" || exit 1
        torch "$peers/torch_norm.py" --threads "$threads" >>"$rows" || exit 1
        torch "$here/tests/bench/torch_layer_norm.py" --threads "$threads" >>"$rows" || exit 1
    fi
    round=$((round + 1))
done

"$python" "$here/tests/bench/table.py" <"$rows"
