#!/usr/bin/env bash
# run_eval_cpu.sh [CKPT] [options of eval.py...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/launch.sh" "${BASH_SOURCE[0]}" eval CPU "$@"
