#!/usr/bin/env bash
# The tables that need a GPU: what a step costs, in float32 and with AMP, and the accuracy of every method on all of
# Fashion-MNIST. Planned for less than 25 minutes of an H100; JOBS runs share the GPU. Killed, it goes on where it was.
#   tools/cuda_tables.sh [further flags of tools/benchmark.py, e.g. --seeds 3]
# Results: work_dirs/cuda/speed.json, speed_amp.json, fashion_mnist/{table.md,plot.png,results.json}
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
OUT=work_dirs/cuda
"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"'
"$PYTHON" tools/prepare_fashion_mnist.py
mkdir -p "$OUT"

measure() {  # NAME [flags]
    if [ ! -s "$OUT/$1.json" ]; then
        "$PYTHON" tools/benchmark_speed.py --device cuda --json "$OUT/$1.part" "${@:2}"
        mv "$OUT/$1.part" "$OUT/$1.json"
    fi
}

# Alone on the GPU, before the runs that share it.
measure speed
measure speed_amp --amp --only step variants sync

"$PYTHON" tools/benchmark.py --dataset fashion_mnist_short --methods all \
    --noise symmetric:0.2,symmetric:0.4,symmetric:0.6,symmetric:0.8,asymmetric:0.4 \
    --jobs "${JOBS:-12}" --work-dir "$OUT/fashion_mnist" "$@"
echo "$((SECONDS / 60)) minutes"
