"""`doctor`: what this machine can do for the configured run, on a page.

Nothing here imports mindspore: what needs it is measured in other processes (`trials`), so that a
package that fails to load, or a network too large for the memory, is a finding too. The rules
behind the last sentence are in `advice`.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import config as configs
from common.doctor import advice, machine
from common.doctor.advice import Measurements
from common.doctor.measuring import Process, figures_of, measure
from common.model.recipe import Recipe
from common.utils import runtime
from common.utils.wording import counted

KERNEL_SECONDS = 120.0  # after which the small operators are given up


@dataclass(frozen=True)
class Examination:
    """What `examine` has found.

    Attributes:
        lines: The page.
        obstacles: What keeps a run from starting, a line each.
        figures: The measurements.
    """

    lines: list[str]  # the page
    obstacles: list[str]  # what keeps a run from starting, each in a line
    figures: Measurements


def examine(
    recipe: Recipe, config: Any, argv: list[str], device_target: str | None, seconds: float
) -> Examination:
    """Measure what this machine can do for a run, and describe it on a page.

    Args:
        recipe: The model.
        config: Its training configuration.
        argv: Arguments of the command line, for the processes that measure.
        device_target: The device that was asked for; None: the best one.
        seconds: For which train steps are timed.

    Returns:
        The page, obstacles and measurements.
    """
    cores = len(os.sched_getaffinity(0))
    figures = Measurements(
        cores=cores,
        load=machine.busy_cores(),
        avx512=runtime.has_avx512(),
        instructions=runtime.instructions_limit(),
        epochs=config.TrainingConfig.epochs,
        workers=config.DataConfig.workers,
    )
    version_lines, obstacles = machine.check_versions(machine.requirements())
    # What costs time last: a package that clashes may keep all of it from running.
    slowdown = 1 + figures.load / cores
    kernels = measure(recipe, argv, "kernels", KERNEL_SECONDS, slowdown=slowdown)
    trial = Process()
    if kernels.problem:
        obstacles.append(kernels.problem)
    else:
        trial = measure(recipe, argv, "training", seconds, slowdown=slowdown)
        if trial.problem:
            obstacles.append(trial.problem)
    obstacles += trial.all("obstacle")
    figures = replace(figures, **figures_of(kernels, trial))
    if not kernels.problem and figures.instructions and figures.avx512:
        free = {"ONEDNN_MAX_CPU_ISA": None}
        unlimited = measure(recipe, argv, "kernels", KERNEL_SECONDS, free, slowdown)
        figures = replace(figures, unlimited=unlimited.kernels)
    epoch = advice.forecast_epoch(figures)
    smaller = ""
    if epoch and epoch.seconds * figures.epochs > advice.LONG_RUN_SECONDS:
        smaller = smallest_preset(recipe, config)
    if smaller:
        alternative = [*argv, "--network_of", smaller]
        other = measure(recipe, alternative, "training", seconds / 3, slowdown=slowdown)
        with_smaller = replace(figures, **figures_of(kernels, other))
        if then := advice.forecast_epoch(with_smaller):
            figures = replace(figures, smaller=smaller, smaller_epoch=then.seconds)

    disk_lines, full = machine.disk_lines(config, trial, shutil.disk_usage)
    obstacles += full
    card_lines, lacking = machine.preflight_lines(device_target)
    obstacles = list(dict.fromkeys(lacking + obstacles))
    lines = [f"{recipe.name} on this machine", ""]
    lines += ["Devices", *_indented(machine.device_lines(kernels, figures, device_target))]
    lines += ["Cards, before a launcher starts on them", *_indented(card_lines)]
    lines += ["Kernels (a small operator each)", *_indented(machine.kernel_lines(figures))]
    lines += ["Memory", *_indented(machine.memory_lines(trial))]
    lines += ["Disk", *_indented(disk_lines)]
    lines += ["Versions and settings"]
    lines += _indented(version_lines + machine.setting_lines(os.environ))
    lines += ["The run", *_indented(run_lines(figures, trial))]
    best = advice.best_advice(figures)
    lines += ["What would help most", *_indented([_sentence(best, figures)])]
    if obstacles:
        lines += ["What keeps train.py from starting", *(f"  {line}" for line in obstacles)]
    else:
        lines += ["Nothing keeps train.py from starting."]
    return Examination(lines, obstacles, figures)


def _sentence(best: advice.Advice | None, figures: Measurements) -> str:
    if best is not None:
        return best.sentence[0].upper() + best.sentence[1:] + "."
    if not figures.steps:
        return "Unknown: no train step could be timed."
    return (
        f"Nothing that this looks at would make a run {advice.MIN_FACTOR:g} times as fast or more."
    )


def _indented(lines: Sequence[str]) -> list[str]:
    wrapped = [
        textwrap.fill(line, 98, break_long_words=False, break_on_hyphens=False) for line in lines
    ]
    return [*("  " + line.replace("\n", "\n      ") for line in wrapped), ""]


# ---- the run


def network_of(recipe: Recipe, preset: str) -> Any:
    """Return the ModelConfig of a preset.

    Args:
        recipe: The model.
        preset: Name of the preset.
    """
    return _preset(recipe, preset).ModelConfig


def _preset(recipe: Recipe, name: str) -> Any:
    config = recipe.train_config()
    configs.override_from_yaml(config, recipe.preset(name))
    return config


def smallest_preset(recipe: Recipe, config: Any) -> str:
    """Find the preset whose network keeps least in memory for a frame, a cheap sign of a small one.

    How much faster it is has to be timed.

    Args:
        recipe: The model.
        config: Its training configuration.

    Returns:
        Name of the preset; "" where the configured network keeps no more.
    """
    if recipe.memory is None:
        return ""
    dimension = recipe.build_featurizer(config.DataConfig).dimension
    # A preset with labels of its own is for another language.
    labels = {config.DataConfig.labels_path, recipe.train_config().DataConfig.labels_path}
    sizes = {
        name: recipe.memory.activation_bytes(preset.ModelConfig, dimension)
        for name in recipe.presets()
        if (preset := _preset(recipe, name)).DataConfig.labels_path in labels
    }
    name = min(sizes, key=sizes.__getitem__, default="")
    ours = recipe.memory.activation_bytes(config.ModelConfig, dimension)
    return name if name and sizes[name] < ours else ""


def run_lines(figures: Measurements, trial: Process) -> list[str]:
    """Describe network, data, step times and the forecast of an epoch.

    Args:
        figures: The measurements.
        trial: What the process that timed the steps said.

    Returns:
        The lines.
    """
    lines = []
    if parameters := trial.get("parameters"):
        lines.append(f"network: {parameters / 1e6:.1f} million parameters")
    if (source := trial.get("source")) is not None:
        shortest, median, longest = trial.get("durations", [0, 0, 0])
        lines.append(
            f"data: {source}, {counted(trial.get('utterances', 0), 'utterance')}, "
            f"{figures.speech / 3600:.2f} hours, {shortest:.1f} to {longest:.1f} s, median "
            f"{median:.1f} s; {counted(len(figures.planned), 'batch', 'batches')}, "
            f"{100 * trial.get('padding', 0):.0f} % of their frames are padding"
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
    run = counted(figures.epochs, "epoch")
    if epoch.bound:
        lines.append(
            f"one epoch: at most {span(epoch.high)}, and perhaps a small part of it: there was "
            "time for few utterances at once, and whole batches take less for each; --seconds 300 "
            f"measures longer; {run}: at most {span(epoch.high * figures.epochs)}"
        )
    else:
        lines.append(
            f"one epoch: about {span(epoch.seconds)}, from {span(epoch.low)} to "
            f"{span(epoch.high)}; {run}: {span(epoch.seconds * figures.epochs)}"
        )
    if figures.device == "CPU" and figures.load >= advice.BUSY * figures.cores:
        lines.append(
            f"other processes kept {figures.load:.1f} of the {figures.cores} cores busy: these are "
            "the times beside them, and a run alone is faster"
        )
    how = "on noise, in the lengths of short, median and long batches of the plan"
    if epoch.extended:
        how += "; longer batches, or more utterances at once, are reckoned from these"
    lines.append(f"(measured {how}; evaluations and the first compilation are not in it)")
    return lines


def span(seconds: float) -> str:
    """Format seconds in hours, with minutes or seconds where those are few."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} hours"
    small = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.2g} hours ({small})"
