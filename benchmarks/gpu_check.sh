#!/usr/bin/env bash
# All that is to be seen on a GPU, in one go: what the machine lacks, a training, its evaluation,
# an exported file, and the time of a step at full size. Writes gpu_check/ in the current folder.
#
#   bash benchmarks/gpu_check.sh [MINUTES]      about how long it may train (default: 10)
#
# Environment: PYTHON, as scripts/launch.sh. It needs no data: the telephone prompts that ship with
# the project are trained on. The wheel of MindSpore is 804 MB: install it first (scripts/setup.sh).
# Exit code: 0 if every step did what it should; each step has a line and a log.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
minutes=${1:-10}
out=$PWD/gpu_check
mkdir -p "$out"
python=$(bash "$root/scripts/launch.sh" --which-python) || exit 1
failed=0

step() { # NAME COMMAND...: a line with its time and exit code, and a log
    local name=$1 started=$SECONDS code=0
    shift
    "$@" >"$out/$name.log" 2>&1 || code=$?
    echo "$name: exit code $code after $((SECONDS - started)) s, $out/$name.log"
    [ "$code" -eq 0 ] || [ "$code" -eq 124 ] || failed=1 # 124: its time was over, as planned
}

{
    nvidia-smi
    nvidia-smi --query-gpu=name,memory.total,compute_cap,driver_version --format=csv
    nproc
} >"$out/machine.log" 2>&1
cd "$root/deepspeech2" || exit 1
count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')

step doctor "$python" doctor.py --device_target GPU
step first_start "$python" -c "
import time
began = time.perf_counter()
import sys
sys.path.insert(0, '..')
import numpy as np
from common.utils import runtime
from common.utils.backend import Tensor, nn
runtime.set_device('GPU')
layer = nn.Conv2d(32, 32, (21, 11))
layer(Tensor(np.ones((2, 32, 80, 200), np.float32))).asnumpy()
print(f'first convolution after {time.perf_counter() - began:.1f} s')
print('memory of the card:', runtime.card_memory('GPU') / 2**30, 'GiB')"
step data "$python" create_mindrecord.py --preset quickstart
step train timeout --signal=TERM "$((60 * minutes))" \
    "$python" train.py --preset quickstart --device_target GPU --profile 5
last=$(ls -t checkpoint/*last*.ckpt 2>/dev/null | head -n 1)
for level in O2 O3; do
    step "train_$level" timeout --signal=TERM 180 "$python" train.py --preset quickstart --device_target GPU \
        --set precision="$level" dynamic_loss_scale=true epochs=2 ckpt_path="$out/checkpoint_$level"
done
if [ "$count" -gt 1 ]; then
    step ranks timeout --signal=TERM 300 bash scripts/run_distribute_train_gpu.sh "$count" \
        --preset quickstart --set epochs=2 ckpt_path="$out/checkpoint_ranks"
fi
if [ -n "$last" ]; then
    step evaluate "$python" eval.py --pretrain_ckpt "$last" --device_target GPU
    step evaluate_cpu "$python" eval.py --pretrain_ckpt "$last" --device_target CPU
    step export "$python" export.py --pre_trained_model_path "$last" --device_target GPU \
        --file_name "$out/network"
fi
step shipped "$python" eval.py --device_target GPU
for model in deepspeech2 jasper; do
    cd "$root/$model" && step "full_size_$model" "$python" doctor.py --device_target GPU --seconds 120
done
grep -hiE 'WER|CER|train step|speech a second|difference' "$out"/*.log >"$out/summary.txt" 2>/dev/null
echo "done: $out/summary.txt has the figures; compare evaluate.log with evaluate_cpu.log"
exit "$failed"
