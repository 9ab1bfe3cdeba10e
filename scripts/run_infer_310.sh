#!/usr/bin/env bash
# A test set through the C++ program, up to its WER; what the models' run_infer_310.sh run, too.
#
#   run_infer_310.sh --model NAME MINDIR_PATH NEED_PREPROCESS [DEVICE_ID] [options...]
#   run_infer_310.sh --model deepspeech2 deepspeech2.mindir y 0 --set result_dir=results
#
# --model NAME     or MODEL=NAME before the command
# MINDIR_PATH      NAME.mindir or its description NAME.json, as export.py wrote them; or NAME.onnx of
#                  fixed shapes, for which the converter_lite in LITE_HOME makes a .mindir
# NEED_PREPROCESS  y: make the features (preprocess.py) first; n: they are there
# DEVICE_ID        number of the card, or several: 0,1 (none given: DEVICE_ID of the environment, or 0)
# options          of preprocess.py and postprocess.py alike: --config, --set
#
# MINDIR_PATH is looked for where the command was typed; everything is written in the model's folder.
# Environment: LITE_HOME, an unpacked MindSpore Lite, for Ascend 310 and 310P; without it, the file
# must be one for the CPU. DEVICE_TARGET, if not the device that the file was made for;
# RUNNER_OPTIONS, further options of the C++ program; PYTHON as in launch.sh.
# Exit code: 0 if every utterance was recognised and scored, else that of the first step that failed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $*" >&2; exit 1; }
misused() { echo "error: $*" >&2; exit 2; }

absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a command"
        absolute "$(command -v "$PYTHON")"
    elif [ -x "$root/.venv/bin/python" ]; then
        echo "$root/.venv/bin/python"
    else
        command -v python3 || fail "no Python: set up with: bash $root/scripts/setup.sh"
    fi
}

# NAME.onnx -> NAME.mindir for the card, beside it; says the path.
convert() {
    local model=$1 output=${1%.onnx} converter
    converter=${LITE_HOME:-}/tools/converter/converter/converter_lite
    [ -x "$converter" ] || fail "$model: an ONNX file is for Ascend, by way of MindSpore Lite's" \
        "converter_lite: set LITE_HOME to an unpacked package (found none at $converter)," \
        "or export with --file_format MINDIR"
    if [ ! "$output.mindir" -nt "$model" ]; then
        LD_LIBRARY_PATH="$LITE_HOME/tools/converter/lib:$LITE_HOME/runtime/lib:${LD_LIBRARY_PATH:-}" \
            "$converter" --fmk=ONNX --modelFile="$model" --outputFile="$output" \
            --optimize=ascend_oriented --saveType=MINDIR >&2 || fail "$model: not converted"
    fi
    echo "$output.mindir"
}

usage="run_infer_310.sh MINDIR_PATH NEED_PREPROCESS [DEVICE_ID] [--config YAML] [--set KEY=VALUE...]"
model=${MODEL:-} words=()
while [ $# -gt 0 ]; do
    case "$1" in
        --model) model=${2:-}; shift $(($# > 1)) ;;
        --model=*) model=${1#*=} ;;
        *) words+=("$1") ;;
    esac
    shift
done
set -- "${words[@]+"${words[@]}"}"
[ -n "$model" ] || misused "which model? --model deepspeech2, --model jasper or MODEL=: $usage"
[ -f "$root/$model/preprocess.py" ] || misused "no model $model in $root: $usage"
[ $# -ge 2 ] || misused "$usage"
path=$1 need=$2
shift 2
device=${DEVICE_ID:-0}
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    device=$1
    shift
fi
[[ $device =~ ^[0-9]+(,[0-9]+)*$ ]] || misused "DEVICE_ID $device: expected a number, or 0,1,..."
case "$need" in
    y | Y | yes | true) need=true ;;
    n | N | no | false) need=false ;;
    *) misused "NEED_PREPROCESS $need: expected y or n" ;;
esac
[ -f "$path" ] || [ -f "${path%.*}.json" ] || misused "$path not found, nor ${path%.*}.json"
path=$(absolute "$path")
python=$(find_python)
cd "$root/$model"

builder=$root/ascend310_infer
[ -f "$builder/build.sh" ] || fail "$builder/build.sh not found"
echo "== the C++ program"
PYTHON=$python bash "$builder/build.sh"
[ "${path%.onnx}" = "$path" ] || path=$(convert "$path")

code=0 # of the first step that failed in part
step() {
    local status=0
    "$@" || status=$?
    # 1: some utterances failed and were named, the others go on. Above: nothing to go on with.
    [ "$status" -le 1 ] || exit "$status"
    [ "$code" -ne 0 ] || code=$status
}

export PYTHONUNBUFFERED=1
if "$need"; then
    echo "== features"
    step "$python" preprocess.py --mindir_path "$path" "$@"
fi
given=$("$python" preprocess.py --mindir_path "$path" --runner_arguments "$@")
mapfile -t arguments <<<"$given"
[ -z "${DEVICE_TARGET:-}" ] || arguments+=(--device_target "$DEVICE_TARGET")
read -ra further <<<"${RUNNER_OPTIONS:-}"
echo "== inference"
step "$builder/build/infer" "${arguments[@]}" --device_id "$device" "${further[@]+"${further[@]}"}"
echo "== score"
step "$python" postprocess.py --mindir_path "$path" "$@"
exit "$code"
