"""Benchmarks start what they mean to start."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("count", [2, 8])
def test_the_line_of_several_ranks_is_one_that_msrun_takes(monkeypatch, count):
    """The wheel's own parser reads it."""
    from mindspore.parallel.cluster import run as msrun

    ranks, lines = benchmark("ranks"), []

    def started(line, **_):
        lines.append(line)
        return subprocess.CompletedProcess(line, 1, "", "")

    options = ["--model", "jasper", "--ranks", str(count), "--steps", "3", "--set", "hidden_size=8"]
    monkeypatch.setattr(sys, "argv", ["ranks.py", *options])
    monkeypatch.setattr(ranks.subprocess, "run", started)
    with pytest.raises(SystemExit):
        ranks.measure(count)
    monkeypatch.setattr(sys, "argv", lines[0])
    read = msrun.get_args()
    assert (read.worker_num, read.local_worker_num, read.join) == (count, count, True)
    assert read.task_script == str(Path(ranks.__file__).resolve())
    assert read.task_script_args[: len(options)] == options
