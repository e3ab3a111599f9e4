#!/usr/bin/env bash
# Fashion-MNIST, all 60,000 images, ResNet-34, the published CIFAR-10 schedule (120 epochs), cross entropy against ELR and
# ELR+ at every noise rate; for a machine with a CUDA GPU. JOBS runs share the GPU; finished runs are not repeated.
#   tools/fashion_mnist_cuda.sh [further flags of tools/run_grid.py, e.g. --seeds 0 1 2]
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"'
"$PYTHON" tools/prepare_fashion_mnist.py
"$PYTHON" tools/run_grid.py configs/ce_fashion_mnist.py configs/elr_fashion_mnist.py configs/elr_plus_fashion_mnist.py \
    --noise symmetric:0.2 symmetric:0.4 symmetric:0.6 symmetric:0.8 \
    --jobs "${JOBS:-4}" --threads 2 --work-dir work_dirs/fashion_mnist "$@"
# Asymmetric noise (each class to the next) has its own published beta and lambda.
asymmetric() {
    "$PYTHON" tools/run_grid.py "configs/$1_fashion_mnist.py" --noise asymmetric:0.4,mapping=next \
        --jobs "${JOBS:-4}" --threads 2 --work-dir "work_dirs/fashion_mnist_asym_$1" "${@:2}"
}
asymmetric ce "$@"
asymmetric elr "$@" --cfg-options model.head.beta=0.9 model.head.lam=1.0
asymmetric elr_plus "$@" --cfg-options model.network.head.beta=0.9 model.network.head.lam=1.0
