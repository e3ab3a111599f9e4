#!/usr/bin/env bash
# Train on several GPUs of one machine, or of several with NNODES, NODE_RANK, MASTER_ADDR and PORT set:
#   tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]
set -euo pipefail

CONFIG=${1:?usage: tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]}
GPUS=${2:?usage: tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]}

exec python -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    --nproc-per-node "$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
