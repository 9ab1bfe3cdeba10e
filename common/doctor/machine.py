"""Devices, kernels, memory, disk, versions and settings of this machine, in lines."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.doctor.advice import Measurements
from common.doctor.measuring import Process
from common.launching import preflight
from common.memory import GIB
from common.training.disk_space import checkpoint_bytes, existing, size
from common.utils import runtime

# Bytes of a recording as FLAC, for each of its 16-bit samples' bytes. LibriSpeech's
# train-clean-100, 100.6 hours at 16 kHz, is 6.3 GB of FLAC: 0.54.
FLAC = 0.65
SETTINGS = ("ONEDNN_", "OMP_", "KMP_", "MKL_", "CUDA_VISIBLE", "ASCEND_RT_", "DEVICE_ID", "MS_")
OUR_SETTINGS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}  # by `runtime.set_environment`
_PIN = re.compile(r"^([\w.-]+)==([^\s;#]+)(?:\s*;\s*python_version\s*(>=|<)\s*\"3\.(\d+)\")?")


# ---- devices


def device_lines(
    kernels: Process,
    figures: Measurements,
    target: str | None,
    host: preflight.Host | None = None,
) -> list[str]:
    """Describe the devices.

    Args:
        kernels: What the process that timed the kernels said.
        figures: The measurements.
        target: The device that was asked for; None: the best one.
        host: The machine; None: this one.

    Returns:
        A line for each kind of device, and which one is used.
    """
    host = host or preflight.Host(sys.executable)
    lines = []
    for device in runtime.DEVICES:
        if device == "CPU":
            extent = "AVX-512" if figures.avx512 else platform.machine()
            description = f"{_processor()}, {figures.cores} cores, {extent}"
            if figures.threads:
                description += f"; MindSpore computes with {figures.threads} threads"
        elif kernels.get("devices") and device in figures.devices:
            cards = preflight.card_lines(device, host)
            description = ", ".join(["usable", *cards])
        else:
            description = f"not usable: {why_not(device, host)}"
        lines.append(f"{device:8}{description}")
    chosen = "asked for" if target else "the best one present"
    return [*lines, f"used here: {figures.device} ({chosen})"]


def why_not(device: str, host: preflight.Host) -> str:
    """Say why MindSpore has no Ascend device or no GPU here, as the launchers say it.

    Args:
        device: "Ascend" or "GPU".
        host: The machine.

    Returns:
        The first fault, in a line.
    """
    fatal = [fault for fault in preflight.faults(device, host, ()) if fault.fatal]
    if fatal:
        return str(fatal[0])
    return "driver and libraries are there, and MindSpore refuses it all the same"


def preflight_lines(
    target: str | None, host: preflight.Host | None = None
) -> tuple[list[str], list[str]]:
    """Describe what a machine with cards lacks, as the launchers do before they start a job.

    Args:
        target: The device that was asked for; None: those whose driver is here.
        host: The machine; None: this one.

    Returns:
        Lines, and obstacles: what keeps a job on the asked-for device from starting.
    """
    host = host or preflight.Host(sys.executable)
    lines, obstacles = [], []
    for device in ("Ascend", "GPU"):
        asked = (target or "").lower() == device.lower()
        if not asked and (target or not preflight.has_driver(device, host)):
            continue
        found = preflight.faults(device, host, ())
        lines += [f"{device}: {line}" for line in preflight.card_lines(device, host)]
        lines += [f"{device}: {'error' if fault.fatal else 'note'}: {fault}" for fault in found]
        if not found:
            lines.append(f"{device}: nothing is missing")
        if asked:
            obstacles += [f"{device}: {fault}" for fault in found if fault.fatal]
    return lines or ["no card's driver is here, and none was asked for"], obstacles


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def busy_cores(
    wait: Callable[[float], None] = time.sleep,
    read: Callable[[], str] = lambda: Path("/proc/stat").read_text(encoding="utf-8"),
) -> float:
    """Measure how many cores are busy during half a second in which this process does nothing.

    From Linux's proc_stat(5): user, nice, system, idle, iowait, ... in ticks of all cores together.
    Not the load average, which remembers what ended a minute ago.

    Args:
        wait: Waits so many seconds.
        read: Returns the content of /proc/stat.

    Returns:
        Number of cores; 0 where it cannot be told.
    """

    def ticks() -> list[int]:
        return [int(value) for value in read().split("\n", 1)[0].split()[1:9]]

    try:
        before = ticks()
        wait(0.5)
        spent = [after - earlier for after, earlier in zip(ticks(), before)]
        idle = spent[3] + spent[4]
    except (OSError, ValueError, IndexError):  # another system
        return 0.0
    return (os.cpu_count() or 1) * (1 - idle / sum(spent)) if sum(spent) else 0.0


def kernel_lines(figures: Measurements) -> list[str]:
    """Describe the speed of the timed kernels."""
    if not figures.kernels:
        return ["not measured"]
    native = figures.device != "CPU" or bool(figures.instructions) or not figures.avx512
    titles = {
        "native": "convolution, by MindSpore's operator",
        "matmul": "convolution, by matrix products",
        "LSTM": "LSTM",
    }
    used = {"native": native, "matmul": not native, "LSTM": True}
    lines = []
    for name, title in titles.items():
        if name not in figures.kernels:
            continue
        kernel = figures.kernels[name]
        what = ", ".join(kernel.names) or "kernel not named by this device"
        if name == "native" and any("ref:any" in primitive for primitive in kernel.names):
            what += " (oneDNN's slow reference)"
        mark = "*" if used[name] else " "
        lines.append(f"{mark} {title:37}{kernel.gflops:7.1f} GFLOP/s  {what}")
    lines.append("* what networks of this project take here")
    if {"native", "matmul"} <= set(figures.kernels):
        ours, other = ("native", "matmul") if native else ("matmul", "native")
        ratio = figures.kernels[other].seconds / figures.kernels[ours].seconds
        speed = (
            f"{ratio:.1f} times as fast as" if ratio >= 1 else f"{1 / ratio:.1f} times slower than"
        )
        lines.append(f"  for this convolution {speed} the other way")
    return lines


# ---- memory, disk


def memory_lines(trial: Process) -> list[str]:
    """Describe the machine's memory and what the run needs of it."""
    lines = [f"{runtime.machine_memory() / GIB:.1f} GiB in this machine"]
    if (free := available_memory()) is not None:
        lines[0] += f", {free / GIB:.1f} free now"
    if forecast := trial.get("memory"):
        lines.append(forecast)
    if (limit := trial.get("limit")) and free is not None and free < limit < math.inf:
        lines.append(
            f"others hold memory that the run reckons with: --set memory_gib={0.9 * free / GIB:.0f}"
        )
    return lines


def available_memory() -> int | None:
    """Return the bytes that are free or can be freed at once, None where unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def record_bytes(data: Any, seconds: float, dimension: int) -> float:
    """Estimate the disk space of MindRecord files, rather too much.

    Args:
        data: The DataConfig.
        seconds: Seconds of speech.
        dimension: Values of a feature frame.

    Returns:
        Bytes.
    """
    spectrum = data.SpectConfig
    if data.store == "features":
        return 4 * dimension * seconds / spectrum.window_stride
    return FLAC * 2 * spectrum.sample_rate * seconds


def disk_lines(
    config: Any, trial: Process, usage: Callable[[Path], Any]
) -> tuple[list[str], list[str]]:
    """Describe the disk space that a run needs and has.

    Args:
        config: The training configuration.
        trial: What the process that timed the steps said.
        usage: Returns the disk usage at a path, as shutil.disk_usage does.

    Returns:
        Lines, and obstacles.
    """
    group, data = config.CheckpointConfig, config.DataConfig
    needs: list[tuple[str, Path, float]] = []
    if numbered := trial.get("checkpoint"):
        files = checkpoint_bytes(group.keep_checkpoint_max, numbered, trial.get("best", 0))
        what = f"checkpoints, {group.keep_checkpoint_max} of {size(numbered)}"
        needs.append((what, Path(group.ckpt_path), files))
    records = Path(data.mindrecord_format.replace("{split}", "train")).parent
    if not trial.get("converted") and (seconds := trial.get("everything")) is not None:
        shards = record_bytes(data, seconds, trial.get("dimension", 0))
        needs.append(("MindRecord files to make", records, shards))
    lines, obstacles = [], []
    for what, folder, need in needs:
        free = usage(existing(folder)).free
        lines.append(f"{what}: about {size(need)} in {folder}, where {size(free)} are free")
        if not os.access(existing(folder), os.W_OK):
            obstacles.append(f"{folder}: cannot be written: choose another folder")
        if need > free:
            obstacles.append(
                f"{folder}: {size(free)} free, {what} need about {size(need)}: make room, or "
                "choose another folder"
            )
    if trial.get("converted"):
        lines.append(f"MindRecord files: there, in {records}")
    return lines or ["not forecast: the network or the data are missing"], obstacles


# ---- versions, settings


def requirements() -> str:
    """Return the content of requirements.txt; "" where there is none."""
    path = Path(__file__).resolve().parents[2] / "requirements.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def pins(text: str, minor: int = sys.version_info.minor) -> dict[str, str]:
    """Read the pinned versions of a requirements file.

    Args:
        text: Content of the file.
        minor: N of the Python 3.N whose lines count.

    Returns:
        Version by package.
    """
    versions = {}
    for line in text.splitlines():
        if match := _PIN.match(line.strip()):
            name, version, sign, number = match.groups()
            if sign is None or (minor >= int(number)) == (sign == ">="):
                versions[name] = version
    return versions


def check_versions(
    text: str, installed: Callable[[str], str] = importlib.metadata.version
) -> tuple[list[str], list[str]]:
    """Compare the installed packages with those of a requirements file.

    Args:
        text: Content of the file.
        installed: Returns the installed version of a package.

    Returns:
        Lines, and obstacles: what is missing or clashes.
    """
    there, missing, other = {}, [], []
    for name, pinned in pins(text).items():
        try:
            there[name] = installed(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if there[name].split("+")[0] != pinned:
            other.append(f"{name} {there[name]} (tried with {pinned})")
    named = [f"{name} {there[name]}" for name in ("mindspore", "numpy") if name in there]
    lines = [", ".join([f"Python {platform.python_version()}", *named])]
    if other:
        lines.append(f"other versions than in requirements.txt: {', '.join(other)}")
    elif there and not missing:
        lines[0] += f"; all {len(there)} packages as in requirements.txt"
    obstacles = []
    if missing:
        obstacles.append(f"not installed: {', '.join(missing)}: bash scripts/setup.sh")
    if there.get("mindspore", "").startswith("2.10.") and _major(there.get("numpy", "1")) >= 2:
        obstacles.append(
            f"numpy {there['numpy']} with mindspore {there['mindspore']}, which is compiled for "
            "numpy 1: pip install numpy==1.26.4"
        )
    return lines, obstacles


def _major(version: str) -> int:
    return int(version.split(".")[0])


def setting_lines(environment: Any) -> list[str]:
    """Name the variables of the environment that may change speed."""
    variables = [
        f"{key}={value}"
        for key, value in sorted(environment.items())
        if key.startswith(SETTINGS) and OUR_SETTINGS.get(key) != value
    ]
    return [f"environment: {', '.join(variables) or 'nothing set that changes speed'}"]
