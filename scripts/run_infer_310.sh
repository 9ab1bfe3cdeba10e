#!/usr/bin/env bash
# A test set through the C++ program, up to its WER; what the models' run_infer_310.sh run, too.
#
#   run_infer_310.sh --model NAME MINDIR_PATH NEED_PREPROCESS [DEVICE_ID] [options...]
#   run_infer_310.sh --model deepspeech2 deepspeech2.mindir y 0 --set result_dir=results
#
# --model NAME     or MODEL=NAME before the command
# MINDIR_PATH      NAME.onnx or NAME.mindir or its description NAME.json, as export.py wrote them. An
#                  ONNX file runs on the CPU; where LITE_HOME is set, one of fixed shapes runs on the
#                  card, for which the converter_lite in LITE_HOME makes a .mindir of it
# NEED_PREPROCESS  y: make the features (preprocess.py) first; n: they are there
# DEVICE_ID        number of the card, or several: 0,1 (none given: DEVICE_ID of the environment, or 0)
# options          of preprocess.py and postprocess.py alike: --config, --set
#
# MINDIR_PATH is looked for where the command was typed; everything is written in the model's folder.
# Environment: LITE_HOME, an unpacked MindSpore Lite, for Ascend 310 and 310P; without it, the file
# must be one for the CPU. OpenVINO_DIR as in ascend310_infer/build.sh. DEVICE_TARGET, if not the device that the file was made for;
# OFFLINE=1 has converter_lite make NAME.offline.mindir of NAME.mindir for the card first (OPTIMIZE=ascend_oriented:310B4
# and the like name a chip other than the one here), for an ONNX file this is always done; PRECISION_MODE, of the card
# (preferred_fp32); CONVERTER_CONFIG, a configuration file for converter_lite instead of the two lines written for it;
# RUNNER_OPTIONS, further options of the C++ program; PYTHON as in launch.sh; DRY_RUN=1 prints the
# steps, as lines for bash, and runs none.
# Exit code: 0 if every utterance was recognised and scored, else that of the first step that failed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $*" >&2; exit 1; }
misused() { echo "error: $*" >&2; exit 2; }

absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }

dry=${DRY_RUN:-}
[ "$dry" != 0 ] || dry=
title() { echo "${dry:+# }== $*"; }

# What the script starts ends with it: by a signal that is passed on, and where the script itself is
# killed, by the kernel.
child=
stop() {
    trap '' INT TERM HUP
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        # The C++ program finishes its batch; what takes longer is ended, its files are whole.
        local tenths=0
        while kill -0 "$child" 2>/dev/null && [ $((tenths += 1)) -le 300 ]; do sleep 0.1; done
        kill -KILL "$child" 2>/dev/null || true
    fi
    echo "stopped by SIG$1; the same command goes on" >&2
    exit $((128 + $(kill -l "$1")))
}
trap 'stop INT' INT
trap 'stop TERM' TERM
trap 'stop HUP' HUP
tied=()
if setpriv --help 2>/dev/null | grep -q -- --pdeathsig; then
    tied=(setpriv --pdeathsig KILL --)
fi

# Runs a command, or prints it as a shell takes it.
run() {
    if [ -n "$dry" ] || [ "$(type -t "$1")" != file ]; then
        shown "$@"
        return
    fi
    local status=0
    # In the background, where a signal interrupts `wait`; the shell would give it no input.
    ${tied[@]+"${tied[@]}"} "$@" <&0 &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}

shown() {
    if [ -n "$dry" ]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# What MindSpore Lite's programs need to find its libraries.
lite_libraries() {
    local folder libraries=$LITE_HOME/runtime/lib:$LITE_HOME/tools/converter/lib
    for folder in "$LITE_HOME"/runtime/third_party/*/ "$LITE_HOME"/runtime/third_party/*/lib/; do
        [ ! -d "$folder" ] || libraries+=:${folder%/}
    done
    echo "$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

# NAME.onnx -> NAME.onnx.mindir for the card, beside it (NAME.mindir may be another export), and
# NAME.mindir -> NAME.offline.mindir; above 1 GB OUTPUT_graph.mindir and its variables. With it the
# card builds no model when the program starts. OUTPUT.cfg is converter_lite's configuration file,
# unless CONVERTER_CONFIG names another.
convert() { # MODEL OUTPUT FORMAT
    local model=$1 output=$2 converter
    converter=${LITE_HOME:-}/tools/converter/converter/converter_lite
    [ -x "$converter" ] || fail "$model: an ONNX file runs on a card by way of MindSpore Lite's" \
        "converter_lite, and LITE_HOME has none ($converter): set LITE_HOME to an unpacked package," \
        "or unset it to run on the CPU"
    local config=${CONVERTER_CONFIG:-$output.cfg} settings="precision_mode=$precision"
    if [ -z "${CONVERTER_CONFIG:-}" ] && ! grep -qsx "$settings" "$config"; then
        if [ -n "$dry" ]; then
            printf 'printf "%%s\\n" %q %q >%q\n' '[ascend_context]' "$settings" "$config"
        else
            printf '%s\n' '[ascend_context]' "$settings" >"$config"
        fi
    fi
    local made=$output.mindir
    [ -f "$made" ] || made=${output}_graph.mindir
    if [ ! "$made" -nt "$model" ] || [ "$config" -nt "$made" ]; then
        title "conversion for the card (minutes)"
        run env LD_LIBRARY_PATH="$(lite_libraries)" \
            "$converter" --fmk="$3" --modelFile="$model" --outputFile="$output" \
            --optimize="${OPTIMIZE:-ascend_oriented}" --saveType=MINDIR --configFile="$config" || {
            rm -f "$output.mindir" "${output}_graph.mindir" # a part must not pass for the whole
            fail "$model: not converted"
        }
    fi
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
python=$(bash "$root/scripts/launch.sh" --which-python soxr) # features need it; mindspore they do not
[ -z "$dry" ] || run cd "$root/$model"
cd "$root/$model"

builder=$root/ascend310_infer
[ -f "$builder/build.sh" ] || fail "$builder/build.sh not found"
title "the C++ program (its first build takes a minute or two)"
run env PYTHON="$python" bash "$builder/build.sh"
precision=${PRECISION_MODE:-preferred_fp32}
if [ -n "${LITE_HOME:-}" ] && [ "${DEVICE_TARGET:-}" != CPU ]; then
    if [ "${path%.onnx}" != "$path" ]; then
        convert "$path" "$path" ONNX
        path=$path.mindir
    elif [ "${OFFLINE:-0}" != 0 ]; then
        [ "${path%.mindir}" != "$path" ] && [ -f "$path" ] ||
            fail "$path: OFFLINE=1 converts one file of one shape (export.py --batch_size --frames)"
        convert "$path" "${path%.mindir}.offline" MINDIR
        path=${path%.mindir}.offline.mindir
    fi
fi

code=0 # of the first step that failed in part
step() {
    local status=0
    run "$@" || status=$?
    # 1: some utterances failed and were named, the others go on. Above: nothing to go on with.
    [ "$status" -le 1 ] || exit "$status"
    [ "$code" -ne 0 ] || code=$status
}

export PYTHONUNBUFFERED=1
if "$need"; then
    title "features of the test set"
    step "$python" preprocess.py --mindir_path "$path" "$@"
fi
question=("$python" preprocess.py --mindir_path "$path" --runner_arguments "$@")
further=(--device_id "$device")
[ -z "${PRECISION_MODE:-}" ] || further+=(--precision_mode "$precision")
[ -z "${DEVICE_TARGET:-}" ] || further=(--device_target "$DEVICE_TARGET" "${further[@]}")
read -ra words <<<"${RUNNER_OPTIONS:-}"
further+=("${words[@]+"${words[@]}"}")
title "inference by the C++ program"
if [ -n "$dry" ]; then
    echo "mapfile -t arguments < <($(run "${question[@]}"))"
    [ -z "${LITE_HOME:-}" ] || echo "export LD_LIBRARY_PATH=$(printf %q "$(lite_libraries)")"
    echo "$(run "$builder/build/infer")\"\${arguments[@]}\" $(run "${further[@]}")"
else
    given=$("${question[@]}")
    mapfile -t arguments <<<"$given"
    [ -z "${LITE_HOME:-}" ] || export LD_LIBRARY_PATH="$(lite_libraries)"
    step "$builder/build/infer" "${arguments[@]}" "${further[@]}"
fi
title "score"
step "$python" postprocess.py --mindir_path "$path" "$@"
exit "$code"
