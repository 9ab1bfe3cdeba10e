"""Device, threads and distributed rank: the one place that touches the environment and the context.

mindspore is imported inside the functions: `set_environment` must run before it is loaded, and
the worker processes that read audio never need it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from common.utils.errors import UserError

INSTALL_COMMAND = "pip install mindspore==2.10.0 numpy==1.26.4, or bash scripts/setup.sh in a clone"
DEVICES = ("Ascend", "GPU", "CPU")

# oneDNN inside the MindSpore 2.10 wheel falls to its reference kernel for every convolution where
# it sees AVX-512: a 32->32, 21x11 convolution takes 6.0 s instead of 0.05 s under AVX2. But under
# AVX2 the LSTMs take twice as long: so AVX-512 stays on, and `common.nn.matmul_convolution` does
# without oneDNN's convolutions. A user's own setting of this variable decides for both.
_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


# oneDNN keeps 1024 kernels with their memory, one for each shape, and every batch has another
# length. Without, 120 steps of the quickstart's network at random lengths peaked at 2.7 instead of
# 2.9 to 3.5 GiB, and took the same time.
_KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


# Loops over parameters are unrolled into calls within calls: Jasper 10x5 has 542 of them, and
# compiling stopped at MindSpore's limit of 1000.
_CALL_DEPTH = 10_000


def set_environment() -> None:
    """Sets what must be set before mindspore is imported. A user's own setting wins."""
    os.environ.setdefault("GLOG_v", "3")  # warnings speak to MindSpore's developers; errors stay
    os.environ.setdefault(_KERNELS_KEPT, "0")
    if _is_x86() and _cpu_flags() is None:  # which kernels it would take cannot be told
        os.environ.setdefault(_INSTRUCTIONS, "AVX2")


def native_convolutions(device: str) -> bool:
    """Whether the device's own convolution is the one to use, or else matrix products."""
    return device != "CPU" or not has_avx512() or bool(instructions_limit())


def slow_broadcasts(device: str) -> bool:
    """Whether arithmetic on tensors of unlike shapes is much slower than on such of one shape.

    MindSpore's CPU operators look up each value's place in two lists, and keep these (16 bytes a
    value of every such operation in the network) until they see another shape.
    """
    return device == "CPU"


def has_avx512() -> bool:
    """Whether this is an x86-64 processor with AVX-512, allowed or not."""
    return _is_x86() and "avx512f" in (_cpu_flags() or ())


def instructions_limit() -> str:
    """The setting of ONEDNN_MAX_CPU_ISA, where it keeps AVX-512 from being used, else ""."""
    limit = os.environ.get(_INSTRUCTIONS, "")
    return limit if limit.upper() in _WITHOUT_AVX512 else ""


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _cpu_flags() -> list[str] | None:
    """What the processor can do, by the names of Linux; None where there is no telling."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split() for line in lines if line.startswith("flags")), None)


def available_devices() -> list[str]:
    """The devices that this machine's MindSpore can use, best first."""
    from common.utils.backend import ms

    found = []
    for device in DEVICES:
        try:
            if device == "CPU" or ms.hal.is_available(device):
                found.append(device)
        except (ValueError, RuntimeError):  # the plugin of that device is not in this wheel
            continue
    return found


def set_device(target: str | None = None, device_id: int | None = None) -> str:
    """Chooses the device and graph mode for this process, and returns the device's name.

    target: "Ascend", "GPU", "CPU", or None for the best one present.
    device_id: card number; None: `DEVICE_ID` of the environment, else 0.
    """
    from common.utils.backend import ms

    present = available_devices()
    if target is None:
        target = present[0]
    matching = [device for device in DEVICES if device.lower() == target.lower()]
    if not matching:
        raise UserError(f"device {target}: no such kind, expected one of {', '.join(DEVICES)}")
    target = matching[0]
    if target not in present:
        raise UserError(
            f"device {target} is not there: this machine has {', '.join(present)}; "
            f"use --device_target {present[0]} or install the driver and libraries of {target}"
        )
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_recursion_limit(_CALL_DEPTH)
    if target == "CPU":
        ms.set_device(target)
    else:
        ms.set_device(target, _card() if device_id is None else device_id)
    return target


def _card() -> int:
    text = os.environ.get("DEVICE_ID", "0")
    if not text.isdecimal():
        raise UserError(f"DEVICE_ID={text} in the environment: expected the number of a card")
    return int(text)


def init_distributed() -> tuple[int, int]:
    """Joins the job that msrun, mpirun or a rank table started: (rank, number of ranks)."""
    from common.utils.backend import ms

    # One of these is set, by the starter or, for older MindSpore on Ascend, by our launcher.
    if not {"MS_ROLE", "OMPI_COMM_WORLD_RANK", "RANK_TABLE_FILE"} & set(os.environ):
        raise UserError(
            "--is_distributed true, but this process was not started as one of several (MS_ROLE "
            "is not set): try bash scripts/run_distribute_train_cpu.sh 2 ..., or msrun "
            "--worker_num=2 --local_worker_num=2 train.py --is_distributed true ..."
        )
    ms.communication.init()
    return ms.communication.get_rank(), ms.communication.get_group_size()


def machine_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's if smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total


def versions() -> dict[str, str]:
    """The versions that a checkpoint or an exported model should be able to name."""
    import numpy as np

    from common.utils.backend import ms

    return {
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
