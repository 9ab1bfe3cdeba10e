#!/usr/bin/env bash
# Builds the runner with the engines whose libraries are there, and says which these are. It reads
# recordings where libsndfile, libsoxr and kissfft are there too, and features in any case.
#
#   bash build.sh [BUILD_DIR]   (default: build, beside this script) -> BUILD_DIR/infer
#
# Environment:
#   OpenVINO_DIR  the folder of OpenVINOConfig.cmake, for ONNX files on a CPU
#                 (default: that of the package openvino in PYTHON)
#   LITE_HOME  an unpacked MindSpore Lite package, for Ascend 310 and 310P
#   PYTHON     a Python with OpenVINO, with MindSpore (for MindIR files on a CPU) or with both
#              (default: the clone's .venv, or python3)
#   JOBS       compilers at the same time (default: one for each core)
#   WARNINGS_AS_ERRORS  ON: a warning of the compiler ends the build (default: OFF)
#
# It needs Debian's nlohmann-json3-dev and libcli11-dev, or these libraries with their CMake files.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
build="${1:-$here/build}"

missing=()
command -v cmake >/dev/null || missing+=("cmake (3.18 or newer)")
command -v "${CXX:-c++}" >/dev/null || missing+=("a C++ compiler (g++ 9 or newer)")
command -v make >/dev/null || missing+=(make)
if ((${#missing[@]})); then
    printf 'error: cannot build without %s\n' "${missing[@]}" >&2
    exit 1
fi

# Prints the folder of OpenVINO's CMake files, or why there is none, after "lacks: ".
find_openvino() {
    if [[ -n "${OpenVINO_DIR:-}" ]]; then
        if [[ -f "$OpenVINO_DIR/OpenVINOConfig.cmake" ]]; then
            (cd "$OpenVINO_DIR" && pwd)
        else
            echo "lacks: OpenVINO_DIR=$OpenVINO_DIR has no OpenVINOConfig.cmake"
        fi
        return
    fi
    "$python" - 2>/dev/null <<'PYTHON_END' || echo "lacks: $python does not run; set OpenVINO_DIR"
import importlib.util
import os

spec = importlib.util.find_spec("openvino")
folder = os.path.join(spec.submodule_search_locations[0], "cmake") if spec else ""
if os.path.exists(os.path.join(folder, "OpenVINOConfig.cmake")):
    print(folder)
else:
    print("lacks: this Python has no openvino: bash scripts/setup.sh requirements-cpp.txt, or set "
          "OpenVINO_DIR")
PYTHON_END
}

# Why the engine of MindSpore Lite cannot be built, or nothing.
lite_lacks() {
    if [[ -z "${LITE_HOME:-}" ]]; then
        echo "LITE_HOME is not set: unpack a MindSpore Lite package for this machine and set it"
    elif [[ ! -f "$LITE_HOME/runtime/include/api/model.h" ]]; then
        echo "LITE_HOME=$LITE_HOME has no runtime/include/api/model.h"
    elif [[ ! -e "$LITE_HOME/runtime/lib/libmindspore-lite.so" ]]; then
        echo "LITE_HOME=$LITE_HOME has no runtime/lib/libmindspore-lite.so"
    fi
}

# Why the engine of the wheel cannot be built, or nothing.
wheel_lacks() {
    if ! command -v "$python" >/dev/null; then
        echo "there is no $python; set PYTHON"
        return
    fi
    "$python" - <<'PYTHON_END' || echo "$python does not run"
import importlib.util
import os
import sysconfig

spec = importlib.util.find_spec("mindspore")
package = spec.submodule_search_locations[0] if spec else ""
variables = sysconfig.get_config_vars()
library = os.path.join(variables["LIBDIR"] or "", variables["LDLIBRARY"] or "-")
multiarch = os.path.join(
    variables["LIBDIR"] or "", variables.get("MULTIARCH") or "", variables["LDLIBRARY"] or "-"
)
if not spec:
    print("this Python has no mindspore: bash scripts/setup.sh, or set PYTHON")
elif not os.path.exists(os.path.join(package, "include/third_party/pybind11/embed.h")):
    print(f"{package} has no include/third_party/pybind11")
elif not os.path.exists(os.path.join(variables["INCLUDEPY"], "Python.h")):
    print("this Python has no Python.h: install its development files (python3-dev)")
elif not (os.path.exists(library) or os.path.exists(multiarch)):
    print(f"this Python has no {variables['LDLIBRARY']} to link with (python3-dev)")
PYTHON_END
}

python="${PYTHON:-}"
if [[ -z "$python" ]]; then
    python="$here/../.venv/bin/python"
    [[ -x "$python" ]] || python=python3
fi
openvino="$(find_openvino)"
openvino_reason=""
if [[ "$openvino" == "lacks: "* ]]; then
    openvino_reason="${openvino#lacks: }"
    openvino=""
fi
lite_reason="$(lite_lacks)"
wheel_reason="$(wheel_lacks)"
engines=()
if [[ -z "$openvino_reason" ]]; then engines+=("openvino (ONNX files on a CPU)"); fi
if [[ -z "$lite_reason" ]]; then
    engines+=("lite (Ascend 310, 310P, CPU)")
    lite="$(cd "$LITE_HOME" && pwd)"
fi
if [[ -z "$wheel_reason" ]]; then
    engines+=("wheel (MindIR files on a CPU)")
    # Its own name, not what it links to: an environment is found by the name.
    wheel="$("$python" -c 'import sys; print(sys.executable)')"
fi
if ((!${#engines[@]})); then
    echo "error: no engine can be built:" >&2
    echo "  openvino: $openvino_reason" >&2
    echo "  lite: $lite_reason" >&2
    echo "  wheel: $wheel_reason" >&2
    exit 1
fi

mkdir -p "$build"
log="$build/build.log"
if ! { cmake -S "$here" -B "$build" -DOPENVINO="$openvino" -DLITE_HOME="${lite:-}" -DPYTHON="${wheel:-}" \
    -DWARNINGS_AS_ERRORS="${WARNINGS_AS_ERRORS:-OFF}" &&
    cmake --build "$build" -j "${JOBS:-$(nproc)}"; } >"$log" 2>&1; then
    if grep -q '^-- missing: ' "$log"; then
        sed -n 's/^-- missing: /error: cannot build without packages: /p' "$log" >&2
        exit 1
    fi
    grep -A 5 -iE 'error' "$log" >&2 || cat "$log" >&2
    echo "error: the build failed; all of its output is in $log" >&2
    exit 1
fi

for engine in "${engines[@]}"; do echo "engine built: $engine"; done
[[ -z "$openvino_reason" ]] || echo "without openvino: $openvino_reason"
[[ -z "$lite_reason" ]] || echo "without lite: $lite_reason"
[[ -z "$wheel_reason" ]] || echo "without wheel: $wheel_reason"
case "$(sed -n 's/^-- audio: //p' "$log")" in
    without*) sed -n 's/^-- audio: without; /without recordings (--audio): /p' "$log" ;;
    *) echo "with recordings (--audio)" ;;
esac
echo "built $build/infer"
