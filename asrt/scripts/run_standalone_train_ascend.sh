#!/usr/bin/env bash
# run_standalone_train_ascend.sh [DEVICE_ID] [CKPT] [options of train.py...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" train Ascend "$@"
