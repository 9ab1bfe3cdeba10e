#!/usr/bin/env bash
# run_infer_310.sh MINDIR_PATH NEED_PREPROCESS [DEVICE_ID] [--config YAML] [--set KEY=VALUE...]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/run_infer_310.sh" --model asrt "$@"
