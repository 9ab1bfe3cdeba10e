#!/usr/bin/env bash
# What every launcher runs: one entry point of one model on one kind of device, in the foreground.
#
#   launch.sh MODEL ENTRY DEVICE [CKPT] [options of the entry point...]
#   launch.sh deepspeech2 eval CPU best.ckpt --set verbose=false
#
# CKPT may be left out for train, which then starts from scratch. It is looked for where the command
# was typed; the job itself runs in the model's folder, where paths in the options and the log are.
# The exit code is the job's, and so are the signals. DRY_RUN=1 prints the command instead;
# PYTHON= chooses the interpreter, otherwise it is the clone's .venv or python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $*" >&2; exit 1; }
misused() { echo "error: $*" >&2; exit 2; }

absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }

has_mindspore() {
    "$1" -c 'import importlib.util as u; exit(not u.find_spec("mindspore"))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a command"
        absolute "$(command -v "$PYTHON")"
    elif [ -x "$root/.venv/bin/python" ]; then
        echo "$root/.venv/bin/python"
    elif has_mindspore python3; then
        command -v python3
    else
        fail "no Python with mindspore: there is no $root/.venv, and python3 lacks it;" \
            "set up with: bash $root/scripts/setup.sh"
    fi
}

[ $# -ge 3 ] || misused "launch.sh MODEL ENTRY DEVICE [CKPT] [options...]"
model=$1 entry=$2 device=$3
shift 3
[ -f "$root/$model/$entry.py" ] || misused "$root/$model/$entry.py not found"

arguments=(--device_target "$device")
case "$entry" in
    train) flag=--pre_trained_model_path required=false ;;
    eval) flag=--pretrain_ckpt required=true ;;
    *) flag="" required=false ;;
esac
if [ -n "$flag" ] && [ -n "${1:-}" ] && [ "${1#-}" = "$1" ]; then
    [ -f "$1" ] || misused "checkpoint $1 not found"
    arguments+=("$flag" "$(absolute "$1")")
    shift
elif [ "$required" = true ]; then
    misused "no checkpoint given: its path is the first argument, options follow" \
        "(one that ships may lie in $model/pretrained)"
fi
arguments+=("$@")

environment=(PYTHONUNBUFFERED=1) # a log read through a pipe shows each line at once
if [ -n "${DRY_RUN:-}" ] && [ "$DRY_RUN" != 0 ]; then
    python=${PYTHON:-$root/.venv/bin/python}
    echo "cd $(printf %q "$root/$model")"
    echo "${environment[*]} $(printf '%q ' "$python" "$entry.py" "${arguments[@]}")"
    exit
fi

python=$(find_python)
cd "$root/$model"
echo "$model: $entry on $device, log in $PWD/$entry.log"
exec env "${environment[@]}" "$python" "$entry.py" "${arguments[@]}"
