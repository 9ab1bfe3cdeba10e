#!/usr/bin/env bash
# run_distribute_train_cpu.sh [RANK_SIZE] [CKPT] [options of train.py...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" distribute_train CPU "$@"
