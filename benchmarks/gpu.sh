#!/usr/bin/env bash
# What a card shows of this project: from a bare checkout, with nothing to install and no network, within eight minutes.
#
#     benchmarks/gpu.sh [FOLDER]
#
# Rows (bench_gpu_torch.csv, bench_gpu_triton.csv, step_gpu.csv, memory_gpu.csv) and logs (gpu_logs/) go to FOLDER, default
# benchmarks/results.
#
# First whether it is right (Triton's tests compiled on the card, `dgemma verify`), then how fast (bench of the published shape with
# Triton's forms in 16 bits, fp8, nvfp4 and int4, one after the other, and without them; the oracle in turn with our engine), what
# the planner said beside what was allocated, and layers that stream. Each step has a limit, and none begins beyond the budget; one that
# fails loses nothing of the others; what can be left out stands last. PYTHON names the interpreter, BUDGET the seconds, DGEMMA_COMMIT
# the commit where there is no git. DRY=1 tries every command line on a CPU with small sizes. Trap: a step that is stopped has its
# table in its log, not in the CSV.
set -u
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-465}
DRY=${DRY:-0}
mkdir -p "${1:-benchmarks/results}" || exit 1
OUT=$(cd "${1:-benchmarks/results}" && pwd) || exit 1
LOGS=$OUT/gpu_logs
mkdir -p "$LOGS" || exit 1

export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
DGEMMA_COMMIT=${DGEMMA_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
export DGEMMA_COMMIT
unset TRITON_INTERPRET DGEMMA_KERNELS

DEVICE=cuda
TESTS=(tests/kernels/triton/test_*.py)
CHECK=()
SHAPE=(--shape diffusiongemma-26b)
LONG=(--longest 16384)
LOAD=(--most 8)
STEP=(--rounds 1)
MEMORY=(--memory 8GB)
if [ "$DRY" = 1 ]; then
    DEVICE=cpu
    TESTS+=(-k bf16)
    CHECK=(--context 64)
    SHAPE=(--shape 100m --threads 1 --tokens 64 --prompt 64)
    LONG=(--longest 1024)
    LOAD=(--most 2)
    MEMORY=(--device cpu --folder src/dgemma/embedded --memory 100MB --prompt 64)
    STEP=(--rounds 1 --shape 100m --dtype float32 --steps 2 --prompt 32 --tokens 256 --no-compiled)
fi

DONE=()
# step NAME SECONDS COMMAND...: its output goes to a log, its fate into the summary
step() {
    local name=$1 limit=$2 left=$((BUDGET - SECONDS)) began=$SECONDS code
    shift 2
    if [ "$left" -lt 10 ]; then
        DONE+=("$name: not begun, the budget of ${BUDGET} s is spent")
        return
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    echo "== $name (at most ${limit} s): $*"
    timeout -k 5 "$limit" "$@" >"$LOGS/$name.log" 2>&1
    code=$?
    case $code in
        0) DONE+=("$name: ok, $((SECONDS - began)) s") ;;
        124 | 137) DONE+=("$name: stopped after $((SECONDS - began)) s") ;;
        *) DONE+=("$name: FAILED with code $code after $((SECONDS - began)) s") ;;
    esac
    echo "   ${DONE[-1]}"
}

if [ "$DRY" != 1 ]; then
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "this torch sees no card" >&2; exit 1; }
    nvidia-smi >"$LOGS/card.log" 2>&1
fi

MAIN=("$PYTHON" -m dgemma.cli.main)
TORCH=(--device "$DEVICE" --save "$OUT/bench_gpu_torch.csv") # apart: a row does not say which forms ran
TRITON=(--device "$DEVICE" --save "$OUT/bench_gpu_triton.csv")
FAST=(env DGEMMA_KERNELS=triton)
step tests 100 env DGEMMA_TEST_DEVICE=$DEVICE \
    "$PYTHON" -m pytest -W default -p no:cacheprovider --tb=short "${TESTS[@]}"
step verify 40 "${MAIN[@]}" verify --device "$DEVICE" "${CHECK[@]}"
step verify_float32 40 "${MAIN[@]}" verify --device "$DEVICE" --dtype float32 "${CHECK[@]}"
for form in bf16 fp8 int4 nvfp4; do # each makes its own model
    step "bench_$form" 40 "${FAST[@]}" "${MAIN[@]}" bench "${SHAPE[@]}" --format $form -r fixed16 "${TRITON[@]}"
done
step more_triton 60 "${FAST[@]}" "${MAIN[@]}" bench "${SHAPE[@]}" -r short -r long "${LONG[@]}" "${TRITON[@]}"
step load_triton 50 "${FAST[@]}" "${MAIN[@]}" bench "${SHAPE[@]}" -r load "${LOAD[@]}" "${TRITON[@]}"
step memory 70 "${FAST[@]}" "$PYTHON" benchmarks/memory_gpu.py "${MEMORY[@]}" --results "$OUT/memory_gpu.csv"
step step_gpu 110 "${FAST[@]}" "$PYTHON" benchmarks/step_gpu.py --device "$DEVICE" "${STEP[@]}" --results "$OUT/step_gpu.csv"
step bench_torch 50 "${MAIN[@]}" bench "${SHAPE[@]}" -r fixed16 -r short "${TORCH[@]}"
step load_int4 50 "${FAST[@]}" "${MAIN[@]}" bench "${SHAPE[@]}" --format int4 -r load "${LOAD[@]}" "${TRITON[@]}"

{
    echo
    echo "== summary, commit $DGEMMA_COMMIT, ${SECONDS} s"
    printf '%s\n' "${DONE[@]}"
    for log in "${DONE[@]}"; do
        name=${log%%:*}
        [ -s "$LOGS/$name.log" ] || continue
        echo "-- $name"
        case $name in
            tests) grep -E '^(FAILED|ERROR)|passed|failed|error' "$LOGS/$name.log" | tail -n 15 ;;
            verify*) grep -E '^[a-z]|FAILED|^  (runs as|ms per step|of the limit)' "$LOGS/$name.log" | cut -c 1-200 | tail -n 30 ;;
            *) tail -n 12 "$LOGS/$name.log" | cut -c 1-200 ;;
        esac
    done
} | tee "$LOGS/summary.txt"
printf '%s\n' "${DONE[@]}" | grep -q -v ': ok' && exit 1
exit 0
