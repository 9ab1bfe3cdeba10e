"""What other processes (`common.doctor.trials`) measure and report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.doctor.advice import Kernel, Timed
from common.model.recipe import Recipe

MARK = "doctor: "  # begins the lines that `common.doctor.trials` writes


def say(**values: Any) -> None:
    """Report a finding to the process that started this one."""
    print(MARK + json.dumps(values), flush=True)


@dataclass
class Process:
    """What a process of `common.doctor.trials` reported."""

    said: list[dict] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    threads: int = 0
    problem: str = ""  # in a line, why it did not come to its end

    def all(self, key: str) -> list[Any]:
        """Return all values that were reported under a key."""
        return [report[key] for report in self.said if key in report]

    def get(self, key: str, otherwise: Any = None) -> Any:
        """Return the first value that was reported under a key.

        Args:
            key: The key.
            otherwise: What is returned where there is none.
        """
        return next(iter(self.all(key)), otherwise)


def measure(
    recipe: Recipe,
    argv: list[str],
    what: str,
    seconds: float,
    environment: Mapping[str, str | None] | None = None,
    slowdown: float = 1.0,
) -> Process:
    """Run a measurement in a process of its own.

    Args:
        recipe: The model.
        argv: Arguments of the command line.
        what: "kernels" or "training".
        seconds: For which it measures; it is given up after about twice as long and three minutes.
        environment: Variables to set; None as a value unsets one.
        slowdown: Factor by which other work on this machine slows it down, before it is given up.

    Returns:
        What the process reported before it ended, also where it failed.
    """
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
            timeout=slowdown * (2 * seconds + 180),
            check=False,
        )
        output = done.stdout
        if done.returncode:
            problem = _reason(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        late = f"the measurement of {what} was given up after {error.timeout:.0f} s"
    process = read_process(output)
    process.problem = problem
    if late:
        process.said.append({"note": late})
    return process


def _reason(code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code == -9:
        return "a process that measured this run was killed, probably for lack of memory"
    refused = [line for line in lines if line.startswith("error: ")]
    if refused:
        return refused[-1].removeprefix("error: ")
    return f"MindSpore fails here: {lines[-1] if lines else f'exit code {code}'}"


def read_process(output: str) -> Process:
    """Parse the output of a measurement.

    Args:
        output: Its standard output: findings, and between two marks of a kernel oneDNN's own lines.

    Returns:
        Findings, and the kernels with the names that oneDNN gives to what it runs.
    """
    process, names = Process(), []
    for line in output.splitlines():
        if line.startswith("onednn_verbose,"):
            if match := re.search(r",cpu,runtime:\w+,nthr:(\d+)", line):
                process.threads = int(match[1])
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
                process.kernels[values["end"]] = kernel
            else:
                process.said.append(values)
    return process


def figures_of(kernels: Process, trial: Process) -> dict[str, Any]:
    """Collect the fields of `Measurements` from two processes.

    Args:
        kernels: The process that timed kernels.
        trial: The process that timed train steps.

    Returns:
        The fields by name; those that were not measured are left out.
    """
    fields: dict[str, Any] = {"kernels": kernels.kernels, "threads": kernels.threads}
    fields["devices"] = tuple(kernels.get("devices", ["CPU"]))
    fields["device"] = trial.get("device", fields["devices"][0])
    fields["steps"] = tuple(
        Timed(report["rows"], report["of"], report["frames"], tuple(report["times"]))
        for report in trial.said
        if "times" in report
    )
    for key, kind in (
        ("operators", tuple),
        ("planned", tuple),
        ("speech", float),
        ("delivered", float),
        ("micro_rows", tuple),
        ("micro_seconds", tuple),
        ("micro_key", str),
        ("batch_rows", tuple),
        ("batch_seconds", tuple),
        ("paddings", dict),
        ("static_seconds", tuple),
        ("static_compiling", float),
        ("static_graphs", int),
        ("static_memory", float),
    ):
        if (value := trial.get(key)) is not None:
            fields[key] = kind(value)
    return fields
