#!/usr/bin/env bash
# What every launcher runs: finds a Python for scripts/launcher.py, which starts the job.
#
#   launch.sh MODEL ENTRY DEVICE [arguments...] [options of the entry point...]
#   launch.sh deepspeech2 eval CPU best.ckpt --set verbose=false
#   launch.sh --which-python [MODULE]   only says which one: a python3 must have MODULE (mindspore)
#
# MODEL may be the path of a script: then it is the folder that scripts/ lies in, or, for those of
# the project's root, --model or MODEL=. Jobs run in the model's folder, where paths in the options
# and the logs are; checkpoints and rank tables are looked for where the command was typed.
#
#   ENTRY              arguments (in brackets: may be left out)
#   train              [DEVICE_ID] [CKPT]
#   distribute_train   Ascend: RANK_SIZE BEGIN [RANK_TABLE_FILE] [CKPT]; GPU, CPU: [RANK_SIZE] [CKPT]
#   eval               [DEVICE_ID] [CKPT]; without one, that which ships with the model
#
# Own options: --start msrun|mpirun|rank_table, --log_dir DIR, --background, --model NAME, and for
# training --restarts N, --hang_timeout SECONDS (docs/launchers.md tells what happens to long runs).
# The exit code is the job's, and so are the signals. Environment: DRY_RUN=1 prints what would be
# started; PYTHON= chooses the interpreter, otherwise it is the clone's .venv or python3;
# DEVICE_TARGET=CPU runs the same on CPUs; RESUME=1 goes on with a run; RESTARTS, HANG_TIMEOUT,
# DEVICE_ID, MASTER_PORT, NODE_RANK, LAUNCH_GRACE (seconds
# that ranks have to end in after Ctrl-C).
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for python in python3 "$root/.venv/bin/python" "${PYTHON:-}"; do # any will do for the launcher
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        exec "$python" "$root/scripts/launcher.py" "$@"
    fi
done
echo "error: no Python of 3.10 or newer, and so none with mindspore: set up with:" \
    "bash $root/scripts/setup.sh" >&2
exit 1
