#!/usr/bin/env bash
# run_distribute_train_gpu.sh [RANK_SIZE] [CKPT] [options of train.py...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" distribute_train GPU "$@"
