#!/usr/bin/env bash
# Make .venv in the clone with the pinned packages; a moment's work where nothing has changed.
#
#   bash scripts/setup.sh [REQUIREMENTS...]      default: requirements.txt
#   bash scripts/setup.sh requirements-light.txt      without MindSpore: to recognise, with ONNX files
#   PYTHON=/opt/python3.11/bin/python3 bash scripts/setup.sh      choose the interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- requirements.txt

fail() { echo "error: $*" >&2; exit 1; }

supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11), (3, 12)])' 2>/dev/null
}

find_python() {
    local candidate candidates=(python3.11 python3.12 python3.10 python3 python)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "the pinned packages need Python 3.10, 3.11 or 3.12, and ${PYTHON:-python3} is" \
        "$("${PYTHON:-python3}" -V 2>/dev/null || echo missing);" \
        "install one (Debian 12: sudo apt-get install python3 python3-venv) or name it in PYTHON="
}

check_venv() { # of the interpreter $1
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 cannot make a virtual environment without its ensurepip module, which Debian and" \
            "Ubuntu package apart: sudo apt-get install $(package_of "$1")-venv"
}

check_openmp() { # with the interpreter $1, for the requirements $2; MindSpore is not in the light ones
    [ "$(basename "$2")" != requirements-light.txt ] || return 0
    "$1" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null ||
        fail "libgomp.so.1 is missing, the OpenMP library that MindSpore's CPU kernels run their" \
            "threads with: sudo apt-get install libgomp1"
}

package_of() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'; }

# The stamp of requirements file $1 holds the hash of what was installed from it.
stamp_of() { echo ".venv/.installed-$(basename "$1")"; }
installed() { [ -x .venv/bin/python ] && [ "$(cat "$(stamp_of "$1")" 2>/dev/null)" = "$2" ]; }

# Nothing is written where nothing is to be installed: the clone may be read-only.
complete=true
for requirements in "$@"; do
    [ -r "$requirements" ] || fail "$requirements: no such file in $PWD"
    installed "$requirements" "$(sha256sum <"$requirements")" || complete=false
done
if "$complete"; then exit 0; fi

# Two set-ups at once: the second waits, and then finds everything in place.
{ : >.venv.lock; } 2>/dev/null ||
    fail "$* must be installed into .venv, and $PWD cannot be written:" \
        "start from a copy of it that is yours, or have its owner run scripts/setup.sh"
exec 9>.venv.lock
if command -v flock >/dev/null; then flock 9; fi

for requirements in "$@"; do
    hash=$(sha256sum <"$requirements")
    if installed "$requirements" "$hash"; then continue; fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        check_venv "$python"
        check_openmp "$python" "$requirements"
        echo "setup: making .venv with $("$python" -V)"
        "$python" -m venv .venv
    elif ! supported .venv/bin/python; then
        fail ".venv holds $(.venv/bin/python -V), the pinned packages need Python 3.10, 3.11 or 3.12:" \
            "remove .venv and start again"
    else
        check_openmp .venv/bin/python "$requirements"
    fi
    echo "setup: installing $requirements into .venv"
    .venv/bin/python -m pip install --disable-pip-version-check -r "$requirements" ||
        fail "pip could not install $requirements; its last lines above say why"
    echo "$hash" >"$(stamp_of "$requirements")"
done
