"""The shared libraries that MindSpore's GPU plugin needs, checked before a job starts.

The names are those that the plugin for CUDA 11.6 in the MindSpore 2.10 wheel loads
(`readelf -d libmindspore_gpu.so.11.6`). CUDA 11.6 to 11.8 have the same names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_TOOLKIT = (
    "libcudart.so.11.0 libcublas.so.11 libcufft.so.10 libcurand.so.10 libcusolver.so.11 "
    "libcusparse.so.11 libnvrtc.so.11.2"
).split()
_VERSIONS = (11060, 11080)  # 1000 major + 10 minor
_FOLDER = "/usr/local/cuda/lib64"  # the plugin's own run path, beside LD_LIBRARY_PATH


def load(name: str) -> Any | None:
    """Load a shared library, searching as the plugin does.

    Args:
        name: File name, such as "libcuda.so.1".

    Returns:
        The library, None if there is none.
    """
    for candidate in (name, f"{_FOLDER}/{name}"):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


def complaints(find: Callable[[str], Any | None] = load) -> list[str]:
    """Check that the driver and the libraries of CUDA and cuDNN are there.

    Args:
        find: Loads a library by its name, as `load`.

    Returns:
        A line for each that is missing or of another version, with where to get it.
    """
    if find("libcuda.so.1") is None:  # without it the others do not matter
        return [
            "libcuda.so.1, NVIDIA's driver, is not found: install the driver, "
            "or start the container with its GPUs (docker run --gpus all)"
        ]
    found = []
    missing = [name for name in _TOOLKIT if find(name) is None]
    if missing:
        found.append(
            f"{', '.join(missing)} not found: MindSpore 2.10 needs CUDA 11.6, 11.7 or 11.8 "
            f"(not 12), 11.6 first and 11.8 for Hopper, in {_FOLDER} or on LD_LIBRARY_PATH"
        )
    version = cuda_version(find)
    if version and not _VERSIONS[0] <= version <= _VERSIONS[1]:
        found.append(
            f"the CUDA library found is {shown(version)}: MindSpore 2.10 needs 11.6, 11.7 or "
            "11.8, put it first on LD_LIBRARY_PATH"
        )
    if find("libcudnn.so.8") is None:
        found.append(
            "libcudnn.so.8 not found: MindSpore 2.10 needs cuDNN 8 for CUDA 11 (not 9) in "
            f"{_FOLDER} or on LD_LIBRARY_PATH"
        )
    return found


def cuda_version(find: Callable[[str], Any | None] = load) -> int | None:
    """Return the version of the CUDA runtime, 1000 major + 10 minor; None where there is none."""
    library = find("libcudart.so.11.0")
    return None if library is None else _number(library, "cudaRuntimeGetVersion")


def shown(version: int) -> str:
    """Write a version of CUDA as people do: 11080 is 11.8."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _number(library: Any, function: str) -> int | None:
    """Return the number that `int function(int *)` of a library returns, None where it fails."""
    number = ctypes.c_int()
    try:
        failed = getattr(library, function)(ctypes.byref(number))
    except AttributeError:
        return None
    return None if failed else number.value
