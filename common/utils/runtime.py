"""Device, environment and distributed rank; no other module changes MindSpore's context.

mindspore is imported inside the functions: `set_environment` must run before it is loaded, and the
worker processes that read audio never need it.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from common.utils import ascend
from common.utils.errors import UserError

INSTALL_COMMAND = "pip install mindspore==2.10.0 numpy==1.26.4, or bash scripts/setup.sh in a clone"
DEVICES = ("Ascend", "GPU", "CPU")

# oneDNN in the MindSpore 2.10 wheel uses its reference kernel for every convolution on processors
# with AVX-512: a 32->32, 21x11 convolution takes 6.0 s instead of 0.05 s with AVX2. But with AVX2
# the LSTMs take twice as long. So AVX-512 stays on, and `common.nn.matmul_convolution` avoids
# oneDNN's convolutions. If the user sets this variable, that setting decides for both.
_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")


# oneDNN caches 1024 kernels with their memory, one for each shape, and every batch has another
# length. Without the cache, 120 steps of the quickstart's network at random lengths peaked at 2.7
# instead of 2.9 to 3.5 GiB, and took the same time.
_KERNEL_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


# MindSpore unrolls loops over parameters into nested calls. Jasper 10x5 has 542 parameters, and
# compiling failed at the default limit of 1000.
_CALL_DEPTH = 10_000


def set_environment() -> None:
    """Set the environment variables that mindspore reads while loading, unless the user has."""
    os.environ.setdefault("GLOG_v", "3")  # no warnings, which are for MindSpore's developers
    os.environ.setdefault(_KERNEL_CACHE, "0")
    if _is_x86() and _cpu_flags() is None:  # the processor is unknown
        os.environ.setdefault(_INSTRUCTIONS, "AVX2")


def native_convolutions(device: str) -> bool:
    """Choose between the device's convolution and matrix products.

    Args:
        device: "Ascend", "GPU" or "CPU".

    Returns:
        Whether to use the device's convolution.
    """
    return device != "CPU" or not has_avx512() or bool(instructions_limit())


def prepare_native_convolutions() -> bool:
    """Disable AVX-512 for oneDNN, where MindSpore is not loaded yet and the user has not decided.

    Networks for other devices have the device's convolutions, also where they run on this CPU.

    Returns:
        Whether the CPU's own convolutions are fast now.
    """
    if "mindspore" not in sys.modules:
        os.environ.setdefault(_INSTRUCTIONS, "AVX2")
    return not has_avx512() or bool(instructions_limit())


def slow_broadcasts(device: str) -> bool:
    """Tell whether arithmetic with broadcasting is much slower than on tensors of the same shape.

    MindSpore's CPU operators build two index lists (16 bytes for each value of every such operation
    in the network) and keep them until they see another shape.

    Args:
        device: "Ascend", "GPU" or "CPU".

    Returns:
        Whether it is.
    """
    return device == "CPU"


def has_avx512() -> bool:
    """Tell whether this is an x86-64 processor with AVX-512, whether or not it is enabled."""
    return _is_x86() and "avx512f" in (_cpu_flags() or ())


def instructions_limit() -> str:
    """Return the value of ONEDNN_MAX_CPU_ISA if it disables AVX-512, else ""."""
    limit = os.environ.get(_INSTRUCTIONS, "")
    return limit if limit.upper() in _WITHOUT_AVX512 else ""


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _cpu_flags() -> list[str] | None:
    """Return the processor's feature flags as Linux names them; None where they are not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split() for line in lines if line.startswith("flags")), None)


def available_devices() -> list[str]:
    """List the devices that this machine's MindSpore can use, best first."""
    from common.utils.backend import ms

    available = []
    for device in DEVICES:
        try:
            if device == "CPU" or ms.hal.is_available(device):
                available.append(device)
        except (ValueError, RuntimeError):  # the plugin of that device is not in this wheel
            continue
    return available


def set_device(target: str | None = None, device_id: int | None = None) -> str:
    """Set the device and graph mode for this process.

    Args:
        target: "Ascend", "GPU" or "CPU" in any letter case; None: the best one present.
        device_id: Card number; None: `DEVICE_ID` of the environment, else 0.

    Returns:
        The device's name.

    Raises:
        UserError: The device is unknown or not present.
    """
    from common.utils.backend import ms

    present = available_devices()
    if target is None:
        target = present[0]
    matching = [device for device in DEVICES if device.lower() == target.lower()]
    if not matching:
        raise UserError(f"device {target}: unknown, expected one of {', '.join(DEVICES)}")
    target = matching[0]
    if target not in present:
        raise UserError(
            f"device {target} is not available: this machine has {', '.join(present)}; "
            f"use --device_target {present[0]} or install the driver and libraries of {target}"
        )
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_recursion_limit(_CALL_DEPTH)
    if target == "CPU":
        ms.set_device(target)
    else:
        ms.set_device(target, _card() if device_id is None else device_id)
    if target == "Ascend":
        _apply(ascend_settings())
    return target


def ascend_settings() -> ascend.Settings:
    """Return how the Ascend chip of this process runs networks."""
    from common.utils.backend import ms

    chip = ms.context.MSContext.get_instance().get_ascend_soc_version()
    return ascend.settings(chip, os.environ)


def _apply(settings: ascend.Settings) -> None:
    """Set what the user has chosen; all else is MindSpore's own for the chip."""
    from common.utils.backend import ms

    if ascend.JIT_LEVEL in settings.chosen:
        ms.set_context(jit_config={"jit_level": settings.jit_level})
    if ascend.PRECISION in settings.chosen:
        ms.device_context.ascend.op_precision.precision_mode(settings.precision)


def saturates(device: str) -> bool:
    """Tell whether float16 overflows to its largest number on a device, and not to infinity.

    So it does on a 910A, and on later chips where MS_ASCEND_CHECK_OVERFLOW_MODE asks for it.

    Args:
        device: "Ascend", "GPU" or "CPU".
    """
    if device != "Ascend":
        return False
    mode = os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE")
    return mode == "SATURATION_MODE" or ascend_settings().saturates


def multiplies_bfloat16(device: str) -> bool:
    """Tell whether a device has convolutions and matrix products in bfloat16.

    Args:
        device: "Ascend", "GPU" or "CPU".
    """
    return device == "Ascend" and ascend.generation(ascend_settings().chip) in ("910B", "A3")


def device_lines(device: str) -> list[str]:
    """Describe for the log how a device runs networks, and what is wrong with its software.

    Args:
        device: "Ascend", "GPU" or "CPU", for which there is nothing to say.
    """
    if device != "Ascend":
        return []
    # MindSpore's own warning of it is below the log level of `set_environment`.
    complaint = ascend.cann_complaint(ascend.cann_version(os.environ))
    return [ascend_settings().line(), *([f"warning: {complaint}"] if complaint else [])]


def card_memory(device: str) -> int:
    """Return the memory of this process's card.

    Args:
        device: "Ascend" or "GPU".

    Returns:
        Bytes; 0 where MindSpore does not tell.
    """
    from common.utils.backend import Tensor, ms

    if ms.get_context("device_target") != device:  # this process uses another
        return 0
    try:
        (Tensor([1.0], ms.float32) + 1).asnumpy()  # a card tells once it is in use
        properties = ms.hal.get_device_properties(ms.get_context("device_id"), device)
        return int(getattr(properties, "total_memory", 0))
    except (RuntimeError, ValueError, TypeError):
        return 0


def _card() -> int:
    text = os.environ.get("DEVICE_ID", "0")
    if not text.isdecimal():
        raise UserError(f"DEVICE_ID={text} in the environment: expected the number of a card")
    return int(text)


def is_rank() -> bool:
    """Tell whether this process was started as one of several.

    msrun, mpirun or, for older MindSpore on Ascend, our launcher sets one of these variables.
    """
    return bool({"MS_ROLE", "OMPI_COMM_WORLD_RANK", "RANK_TABLE_FILE"} & set(os.environ))


def init_distributed() -> tuple[int, int]:
    """Join the job that msrun, mpirun or a rank table started.

    Returns:
        (rank, number of ranks).

    Raises:
        UserError: This process is not part of such a job.
    """
    from common.utils.backend import ms

    if not is_rank():
        raise UserError(
            "--is_distributed true, but this process was not started as one of several (MS_ROLE "
            "is not set): try bash scripts/run_distribute_train_cpu.sh 2 ..., or msrun "
            "--worker_num=2 --local_worker_num=2 train.py --is_distributed true ..."
        )
    ms.communication.init()
    return ms.communication.get_rank(), ms.communication.get_group_size()


def machine_memory() -> int:
    """Return the memory this process may use.

    It is the machine's, or the smaller limit of its control group or its address space (ulimit -v).

    Returns:
        Bytes.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    return total if address_space == resource.RLIM_INFINITY else min(total, address_space)


def versions() -> dict[str, str]:
    """Return the versions to store in checkpoints and exported files.

    Returns:
        Package -> version.
    """
    import numpy as np

    from common.utils.backend import ms

    return {
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
