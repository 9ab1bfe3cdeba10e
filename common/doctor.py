"""`doctor`: what this machine can do for the configured run, on a page.

Nothing here imports mindspore: what needs it is measured in other processes (`common.trials`), so
that a package that fails to load, or a network too large for the memory, is a finding too. The
rules behind the last sentence are in `common.advice`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common import advice, runtime
from common import config as configs
from common.advice import Figures, Kernel, Timed
from common.memory import GIB
from common.recipe import Recipe
from scripts.launching import Fault, gpu

# Begins the lines that `common.trials` writes.
MARK = "doctor: "
KERNEL_SECONDS = 120.0  # after which the small operators are given up
# Bytes of a recording as FLAC, for each of its 16-bit samples' bytes. LibriSpeech's
# train-clean-100, 100.6 hours at 16 kHz, is 6.3 GB of FLAC: 0.54.
FLAC = 0.65
SETTINGS = ("ONEDNN_", "OMP_", "KMP_", "MKL_", "CUDA_VISIBLE", "ASCEND_RT_", "DEVICE_ID", "MS_")
OUR_SETTINGS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}  # by `runtime.set_environment`
_PIN = re.compile(r"^([\w.-]+)==([^\s;#]+)(?:\s*;\s*python_version\s*(>=|<)\s*\"3\.(\d+)\")?")


@dataclass(frozen=True)
class Examination:
    lines: list[str]  # the page
    obstacles: list[str]  # what keeps a run from starting, each in a line
    figures: Figures


def network_of(recipe: Recipe, preset: str) -> Any:
    """The ModelConfig of a preset."""
    config = recipe.train_config()
    configs.override_from_yaml(config, recipe.preset(preset))
    return config.ModelConfig


def examine(
    recipe: Recipe, config: Any, argv: list[str], device_target: str | None, seconds: float
) -> Examination:
    """Looks, measures and writes the page; argv: the command line, for the other processes."""
    cores = len(os.sched_getaffinity(0))
    figures = Figures(
        cores=cores,
        load=busy_cores(),
        avx512=runtime.has_avx512(),
        instructions=runtime.instructions_limit(),
        epochs=config.TrainingConfig.epochs,
        workers=config.DataConfig.workers,
    )
    version_lines, obstacles = check_versions(_requirements())
    # What costs time last: a package that clashes may keep all of it from running.
    kernels = _measure(recipe, argv, "kernels", KERNEL_SECONDS)
    trial = _Process()
    if kernels.problem:
        obstacles.append(kernels.problem)
    else:
        trial = _measure(recipe, argv, "training", seconds)
        if trial.problem:
            obstacles.append(trial.problem)
    obstacles += trial.all("obstacle")
    figures = replace(figures, **figures_of(kernels, trial))
    if not kernels.problem and figures.instructions and figures.avx512:
        free = {"ONEDNN_MAX_CPU_ISA": None}
        unlimited = _measure(recipe, argv, "kernels", KERNEL_SECONDS, free)
        figures = replace(figures, unlimited=unlimited.kernels)
    epoch = advice.forecast_epoch(figures)
    smaller = ""
    if epoch and epoch.seconds * figures.epochs > advice.LONG_RUN:
        smaller = smallest_preset(recipe, config)
    if smaller:
        other = _measure(recipe, [*argv, "--network_of", smaller], "training", seconds / 3)
        found = replace(figures, **figures_of(kernels, other))
        if then := advice.forecast_epoch(found):
            figures = replace(figures, smaller=smaller, smaller_epoch=then.seconds)

    disk_lines, full = _disk(config, trial, shutil.disk_usage)
    obstacles += full
    obstacles = list(dict.fromkeys(obstacles))
    lines = [f"{recipe.name} on this machine", ""]
    lines += ["Devices", *_indented(_devices(kernels, figures, device_target))]
    lines += ["Kernels (a small operator each)", *_indented(kernel_lines(figures))]
    lines += ["Memory", *_indented(_memory(trial))]
    lines += ["Disk", *_indented(disk_lines)]
    lines += ["Versions and settings", *_indented(version_lines + _settings(os.environ))]
    lines += ["The run", *_indented(run_lines(figures, trial))]
    best = advice.best_advice(figures)
    lines += ["What would help most", *_indented([_sentence(best, figures)])]
    if obstacles:
        lines += ["What keeps train.py from starting", *(f"  {line}" for line in obstacles)]
    else:
        lines += ["Nothing keeps train.py from starting."]
    return Examination(lines, obstacles, figures)


def _sentence(best: advice.Advice | None, figures: Figures) -> str:
    if best is not None:
        return best.sentence[0].upper() + best.sentence[1:] + "."
    if not figures.steps:
        return "Unknown: no train step could be timed."
    return f"Nothing that this looks at would make a run {advice.WORTH:g} times as fast or more."


def _indented(lines: Sequence[str]) -> list[str]:
    wrapped = [
        textwrap.fill(line, 98, break_long_words=False, break_on_hyphens=False) for line in lines
    ]
    return [*("  " + line.replace("\n", "\n      ") for line in wrapped), ""]


# ---- measuring in other processes


@dataclass
class _Process:
    """What a process of `common.trials` said."""

    said: list[dict] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    threads: int = 0
    problem: str = ""  # in a line, why it did not come to its end

    def all(self, key: str) -> list[Any]:
        return [each[key] for each in self.said if key in each]

    def get(self, key: str, otherwise: Any = None) -> Any:
        return next(iter(self.all(key)), otherwise)


def _measure(
    recipe: Recipe,
    argv: list[str],
    what: str,
    seconds: float,
    environment: dict[str, str | None] | None = None,
) -> _Process:
    values = {**os.environ, **(environment or {})}
    if what == "kernels":
        values["ONEDNN_VERBOSE"] = "1"
    command = [sys.executable, str(recipe.folder / "doctor.py"), *argv, "--measure", what]
    if what == "training":
        command += ["--seconds", str(max(1.0, seconds))]
    output, problem, late = "", "", ""
    try:
        done = subprocess.run(
            command,
            env={key: value for key, value in values.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=2 * seconds + 180,
            check=False,
        )
        output = done.stdout
        if done.returncode:
            problem = _reason(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        late = f"the measurement of {what} was given up after {error.timeout:.0f} s"
    found = read_process(output)
    found.problem = problem
    if late:
        found.said.append({"note": late})
    return found


def _reason(code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code == -9:
        return "a process that measured this run was killed, probably for lack of memory"
    refused = [line for line in lines if line.startswith("error: ")]
    if refused:
        return refused[-1].removeprefix("error: ")
    return f"MindSpore fails here: {lines[-1] if lines else f'exit code {code}'}"


def read_process(output: str) -> _Process:
    """Findings, and between two marks of a kernel the names that oneDNN gives to what it runs."""
    found, names = _Process(), []
    for line in output.splitlines():
        if line.startswith("onednn_verbose,"):
            if match := re.search(r",cpu,runtime:\w+,nthr:(\d+)", line):
                found.threads = int(match[1])
            parts = line.split(",")
            if "exec" in parts:
                # onednn_verbose,v1,primitive,exec,cpu,convolution,jit_uni_ncsp:conv+ref:any,...
                kind, name = parts[parts.index("exec") + 2 :][:2]
                if kind != "reorder" and (whole := f"{kind} {name}") not in names:
                    names.append(whole)
        elif line.startswith(MARK):
            values = json.loads(line.removeprefix(MARK))
            if "begin" in values:
                names = []
            elif "end" in values:
                kernel = Kernel(tuple(names), values["seconds"], values["gflops"])
                found.kernels[values["end"]] = kernel
            else:
                found.said.append(values)
    return found


def figures_of(kernels: _Process, trial: _Process) -> dict[str, Any]:
    """The fields of `Figures` that two processes have found."""
    found: dict[str, Any] = {"kernels": kernels.kernels, "threads": kernels.threads}
    found["devices"] = tuple(kernels.get("devices", ["CPU"]))
    found["device"] = trial.get("device", found["devices"][0])
    found["steps"] = tuple(
        Timed(each["rows"], each["of"], each["frames"], tuple(each["times"]))
        for each in trial.said
        if "times" in each
    )
    for key, kind in (
        ("operators", tuple),
        ("planned", tuple),
        ("speech", float),
        ("delivered", float),
        ("micro_rows", tuple),
        ("micro_seconds", tuple),
        ("micro_key", str),
        ("paddings", dict),
        ("static_seconds", tuple),
        ("static_compiling", float),
        ("static_graphs", int),
        ("static_memory", float),
    ):
        if (value := trial.get(key)) is not None:
            found[key] = kind(value)
    return found


def smallest_preset(recipe: Recipe, config: Any) -> str:
    """The preset whose network keeps least in memory for a frame, a cheap sign of a small one, if
    that is less than the configured one keeps; else "". How much quicker it is, is to be timed."""
    dimension = recipe.build_featurizer(config.DataConfig).dimension
    sizes = {
        name: recipe.activation_bytes(network_of(recipe, name), dimension)
        for name in recipe.presets()
    }
    name = min(sizes, key=sizes.get, default="")
    ours = recipe.activation_bytes(config.ModelConfig, dimension)
    return name if name and sizes[name] < ours else ""


# ---- devices


def _devices(kernels: _Process, figures: Figures, target: str | None) -> list[str]:
    reasons = {"Ascend": why_no_ascend, "GPU": why_no_gpu}
    lines = []
    for device in runtime.DEVICES:
        if device == "CPU":
            extent = "AVX-512" if figures.avx512 else platform.machine()
            said = f"{_processor()}, {figures.cores} cores, {extent}"
            if figures.threads:
                said += f"; MindSpore computes with {figures.threads} threads"
        elif kernels.get("devices") and device in figures.devices:
            said = "usable"
        else:
            said = f"not usable: {reasons[device]()}"
        lines.append(f"{device:8}{said}")
    chosen = "asked for" if target else "the best one present"
    return [*lines, f"used here: {figures.device} ({chosen})"]


def why_no_gpu(find: Callable[[str], Any | None] = gpu.load) -> str:
    """As the launchers say it before they start anything."""
    try:
        gpu.check_gpu_libraries(find)
    except Fault as fault:
        return str(fault).removeprefix("GPU: ")
    return "driver and libraries load, and MindSpore refuses it all the same"


def why_no_ascend(
    exists: Callable[[str], bool] = os.path.exists, loads: Callable[[str], bool] | None = None
) -> str:
    loads = loads or _loads
    if not exists("/dev/davinci_manager"):
        return "no Ascend driver (/dev/davinci_manager is not there)"
    if not loads("libascendcl.so"):
        return "a driver, but no CANN (libascendcl.so): source its set_env.sh in this shell"
    return "driver and CANN load, and MindSpore refuses it all the same"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


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
    """How many cores were busy during half a second in which this process did nothing (Linux's
    proc_stat(5): user, nice, system, idle, iowait, ... in ticks of all cores together).

    Not the load average, which remembers what ended a minute ago.
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


def kernel_lines(figures: Figures) -> list[str]:
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
        if name == "native" and any("ref:any" in each for each in kernel.names):
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


def _memory(trial: _Process) -> list[str]:
    lines = [f"{runtime.machine_memory() / GIB:.1f} GiB in this machine"]
    if (free := available_memory()) is not None:
        lines[0] += f", {free / GIB:.1f} free now"
    if said := trial.get("memory"):
        lines.append(said)
    if (limit := trial.get("limit")) and free is not None and free < limit:
        lines.append(
            f"others hold memory that the run reckons with: --set memory_gib={0.9 * free / GIB:.0f}"
        )
    return lines


def available_memory() -> int | None:
    """Bytes that are free or can be freed at once, None where there is no telling."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def checkpoint_bytes(keep: int, numbered: int, best: int) -> int:
    """Disk that a run's checkpoints need: the newest `keep` (`last` is another name of one), the
    best, and one more while it is being written."""
    return (keep + 1) * numbered + best


def record_bytes(data: Any, seconds: float, dimension: int) -> float:
    """Disk for MindRecord files of so many seconds of speech; roughly, and rather too much."""
    spectrum = data.SpectConfig
    if data.store == "features":
        return 4 * dimension * seconds / spectrum.window_stride
    return FLAC * 2 * spectrum.sample_rate * seconds


def _disk(
    config: Any, trial: _Process, usage: Callable[[Path], Any]
) -> tuple[list[str], list[str]]:
    """Lines, and obstacles."""
    group, data = config.CheckpointConfig, config.DataConfig
    needs: list[tuple[str, Path, float]] = []
    if numbered := trial.get("checkpoint"):
        need = checkpoint_bytes(group.keep_checkpoint_max, numbered, trial.get("best", 0))
        what = f"checkpoints, {group.keep_checkpoint_max} of {_size(numbered)}"
        needs.append((what, Path(group.ckpt_path), need))
    records = Path(data.mindrecord_format.replace("{split}", "train")).parent
    if not trial.get("converted") and (seconds := trial.get("everything")) is not None:
        need = record_bytes(data, seconds, trial.get("dimension", 0))
        needs.append(("MindRecord files to make", records, need))
    lines, obstacles = [], []
    for what, folder, need in needs:
        free = usage(existing(folder)).free
        lines.append(f"{what}: about {_size(need)} in {folder}, where {_size(free)} are free")
        if not os.access(existing(folder), os.W_OK):
            obstacles.append(f"{folder}: cannot be written: choose another folder")
        if need > free:
            obstacles.append(
                f"{folder}: {_size(free)} free, {what} need about {_size(need)}: make room, or "
                "choose another folder"
            )
    if trial.get("converted"):
        lines.append(f"MindRecord files: there, in {records}")
    return lines or ["not forecast: the network or the data are missing"], obstacles


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= 0.1 * GIB else f"{count / (1 << 20):.1f} MiB"


# ---- versions, settings


def _requirements() -> str:
    path = Path(__file__).resolve().parents[1] / "requirements.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def pins(text: str, minor: int = sys.version_info.minor) -> dict[str, str]:
    """Name -> version in the lines of a requirements file that are for this Python 3.`minor`."""
    found = {}
    for line in text.splitlines():
        if match := _PIN.match(line.strip()):
            name, version, sign, number = match.groups()
            if sign is None or (minor >= int(number)) == (sign == ">="):
                found[name] = version
    return found


def check_versions(
    text: str, installed: Callable[[str], str] = importlib.metadata.version
) -> tuple[list[str], list[str]]:
    """Lines on the packages of a requirements file, and obstacles: what is missing or clashes."""
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


def _settings(environment: Any) -> list[str]:
    found = [
        f"{key}={value}"
        for key, value in sorted(environment.items())
        if key.startswith(SETTINGS) and OUR_SETTINGS.get(key) != value
    ]
    return [f"environment: {', '.join(found) or 'nothing set that changes speed'}"]


# ---- the run


def run_lines(figures: Figures, trial: _Process) -> list[str]:
    lines = []
    if parameters := trial.get("parameters"):
        lines.append(f"network: {parameters / 1e6:.1f} million parameters")
    if (source := trial.get("source")) is not None:
        shortest, median, longest = trial.get("durations", [0, 0, 0])
        lines.append(
            f"data: {source}, {trial.get('utterances')} utterances, "
            f"{figures.speech / 3600:.2f} hours, {shortest:.1f} to {longest:.1f} s, median "
            f"{median:.1f} s; {len(figures.planned)} batches, {100 * trial.get('padding', 0):.0f} "
            "% of their frames are padding"
        )
    for step in figures.steps[1:] or figures.steps:
        part = f"{step.rows}" if step.rows == step.of else f"{step.rows} (of {step.of})"
        spread = f", {min(step.seconds):.2f} to {max(step.seconds):.2f}"
        lines.append(
            f"train step, {part} x {step.frames} frames: {step.median:.2f} s"
            + (f" (median of {len(step.seconds)}{spread})" if len(step.seconds) > 1 else "")
        )
    lines += trial.all("note")
    epoch = advice.forecast_epoch(figures)
    if epoch is None:
        why = "data" if figures.steps else "a timed train step"
        lines.append(f"no forecast of an epoch without {why}")
        return lines
    if figures.delivered:
        slower = epoch.loading > epoch.computing
        waits = "training waits for it" if slower else "training does not wait for it"
        lines.append(
            f"the loader makes {figures.delivered:.0f} s of speech a second with {figures.workers} "
            f"threads, train steps take {figures.speech / epoch.computing:.0f}: {waits}"
        )
    lines.append(
        f"one epoch: about {span(epoch.seconds)}, from {span(epoch.low)} to {span(epoch.high)}; "
        f"{figures.epochs} epochs: {span(epoch.seconds * figures.epochs)}"
    )
    said = "on noise, in the lengths of short, median and long batches of the plan"
    if epoch.extended:
        said += "; longer batches, or more utterances at once, are reckoned from these"
    lines.append(f"(measured {said}; evaluations and the first compilation are not in it)")
    return lines


def span(seconds: float) -> str:
    """In hours, with minutes or seconds where those are few."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} hours"
    small = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.2g} hours ({small})"
