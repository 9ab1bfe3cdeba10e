"""The process's environment, device and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.utils import runtime
from common.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHOW = (
    "import os, common.utils.backend; "
    "print(os.environ.get('ONEDNN_MAX_CPU_ISA'), os.environ['GLOG_v'], "
    "os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
)
INSTRUCTIONS, KERNELS = "ONEDNN_MAX_CPU_ISA", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.launcher
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "None 3 0"),
        ({INSTRUCTIONS: "SSE41", "GLOG_v": "1", KERNELS: "64"}, "SSE41 1 64"),
    ],
)
def test_the_environment_is_set_before_mindspore_loads_unless_the_user_has(own, expected):
    ours = (INSTRUCTIONS, KERNELS, "GLOG_v")
    bare = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env=bare | own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("machine", "flags", "own", "device", "native"),
    [
        ("x86_64", ["avx2", "avx512f"], None, "CPU", False),
        ("x86_64", ["avx2", "avx512f"], "AVX512_CORE", "CPU", False),
        ("x86_64", ["avx2", "avx512f"], "avx2", "CPU", True),
        ("x86_64", ["avx2", "avx512f"], None, "Ascend", True),
        ("x86_64", ["avx2"], None, "CPU", True),
        ("x86_64", None, None, "CPU", True),
        ("aarch64", ["asimd"], None, "CPU", True),
    ],
)
def test_matrix_products_replace_convolutions_with_avx512(
    monkeypatch, machine, flags, own, device, native
):
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: flags)
    # A copy: what set_environment adds would outlast monkeypatch.delenv, and the tests to come
    # would take convolutions for which this process's oneDNN has no kernel.
    environment = {key: value for key, value in os.environ.items() if key != INSTRUCTIONS}
    monkeypatch.setattr(os, "environ", environment | ({INSTRUCTIONS: own} if own else {}))
    runtime.set_environment()
    limited = "AVX2" if machine == "x86_64" and flags is None else own
    assert os.environ.get(INSTRUCTIONS) == limited
    assert runtime.native_convolutions(device) is native


def test_processor_flags_are_read_from_proc(monkeypatch):
    lines = "processor : 0\nflags\t\t: fpu avx2 avx512f\nprocessor : 1\nflags : fpu\n"
    monkeypatch.setattr(runtime.Path, "read_text", lambda path, encoding: lines)
    assert "avx512f" in runtime._cpu_flags()
    monkeypatch.setattr(runtime.Path, "read_text", lambda path, encoding: _missing(path))
    assert runtime._cpu_flags() is None


def test_the_cpu_is_always_available():
    devices = runtime.available_devices()
    assert devices[-1] == "CPU"
    assert set(devices) <= {"Ascend", "GPU", "CPU"}


def test_set_device_chooses_graph_mode_and_takes_any_letter_case():
    import mindspore as ms

    assert runtime.set_device("cpu") == "CPU"
    assert ms.get_context("mode") == ms.GRAPH_MODE
    assert ms.get_context("device_target") == "CPU"


def test_the_best_device_present_is_the_default(monkeypatch):
    monkeypatch.setattr(runtime, "available_devices", lambda: ["CPU"])
    assert runtime.set_device() == "CPU"


def test_a_missing_device_is_an_error(monkeypatch):
    monkeypatch.setattr(runtime, "available_devices", lambda: ["CPU"])
    with pytest.raises(UserError, match="Ascend is not available: this machine has CPU"):
        runtime.set_device("Ascend")
    with pytest.raises(UserError, match="TPU: unknown, expected one of Ascend, GPU, CPU"):
        runtime.set_device("TPU")


def test_the_device_id_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "3")
    assert runtime._card() == 3
    monkeypatch.setenv("DEVICE_ID", "")
    with pytest.raises(UserError, match="DEVICE_ID= in the environment"):
        runtime._card()


def test_machine_memory_is_the_smaller_of_machine_and_control_group(monkeypatch):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {}
    monkeypatch.setattr(
        runtime.Path, "read_text", lambda path: limits[str(path)] if limits else _missing(path)
    )
    assert runtime.machine_memory() == physical
    v2, v1 = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    limits.update({v2: "max\n", v1: f"{2 << 30}\n"})
    assert runtime.machine_memory() == min(physical, 2 << 30)
    limits.update({v2: "1048576\n"})
    assert runtime.machine_memory() == 1 << 20
    monkeypatch.setattr(
        runtime.resource, "getrlimit", lambda which: (1 << 19, 1 << 30)
    )  # ulimit -v
    assert runtime.machine_memory() == 1 << 19


@pytest.mark.parametrize(
    ("flags", "loaded", "set_by_user", "after", "fast"),
    [
        (["avx2", "avx512f"], False, None, "AVX2", True),
        (["avx2", "avx512f"], False, "AVX512_CORE", "AVX512_CORE", False),
        (["avx2", "avx512f"], True, None, None, False),
        (["avx2", "avx512f"], True, "AVX2", "AVX2", True),
        (["avx2"], True, None, None, True),
    ],
)
def test_convolutions_of_networks_for_other_devices_run_without_avx512(
    flags, loaded, set_by_user, after, fast, monkeypatch
):
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "mindspore", None)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if set_by_user:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", set_by_user)
    assert runtime.prepare_native_convolutions() is fast
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == after
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)  # what it set itself, monkeypatch does not know


def _missing(path):
    raise FileNotFoundError(path)


def test_distributed_without_a_launcher_is_refused(monkeypatch):
    for name in ("MS_ROLE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="not started as one of several"):
        runtime.init_distributed()
