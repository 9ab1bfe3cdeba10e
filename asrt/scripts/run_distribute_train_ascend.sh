#!/usr/bin/env bash
# run_distribute_train_ascend.sh RANK_SIZE BEGIN [RANK_TABLE_FILE] [CKPT] [options of train.py...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" distribute_train Ascend "$@"
