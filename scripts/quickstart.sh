#!/usr/bin/env bash
# From a fresh clone to recognised speech: set up, then scripts/quickstart.py with the arguments.
#
#   bash scripts/quickstart.sh                          the prompts that ship with the project
#   bash scripts/quickstart.sh --an4 DIR | download     CMU AN4
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/quickstart.py" "$@"
