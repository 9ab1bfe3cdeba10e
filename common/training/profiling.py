"""`--profile N`: MindSpore's profiler over some steps of a training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from common.training.callbacks import Callback
from common.training.progress import Progress
from common.training.train_step import StepResult
from common.utils.backend import ms
from common.utils.wording import counted

WARM_UP = 3  # steps before the first one that counts: they compile and fill caches
FOLDER = "profile"


class StepProfiler(Callback):
    """Records N steps after the first ones, and says where the result is and how to read it.

    Args:
        steps: Number of steps to record.
        device: "Ascend", "GPU" or "CPU".
        log: Gets the lines.
        rank: Number of this process, for the name of its folder.
    """

    def __init__(self, steps: int, device: str, log: logging.Logger, rank: int = 0):
        self.steps, self.log, self.seen = steps, log, 0
        self.folder = Path(FOLDER, f"rank_{rank}").absolute()
        self.device = device
        self.profiler: Any = None

    def on_step_end(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        """Start after the warm-up, and stop after the last step that is wanted."""
        self.seen += 1
        if self.seen == WARM_UP:
            self.profiler = _start(self.device, self.folder)
        elif self.seen == WARM_UP + self.steps:
            self._stop()

    def on_early_end(self, progress: Progress) -> None:
        """Keep what there is of a run that ends before."""
        self._stop()

    def on_run_end(self, result: Any) -> None:
        """Keep what there is of a run that is shorter than asked for."""
        self._stop()

    def _stop(self) -> None:
        if self.profiler is None:
            return
        self.profiler.stop()
        self.profiler = None
        recorded = min(self.seen - WARM_UP, self.steps)
        self.log.info(
            f"profile of {counted(recorded, 'step')}, after {WARM_UP} that do not count, in "
            f"{self.folder}: {reading(self.device)}"
        )


def reading(device: str) -> str:
    """Say in a line how a profile is read.

    Args:
        device: "Ascend", "GPU" or "CPU".
    """
    if device == "Ascend":
        return (
            "ASCEND_PROFILER_OUTPUT/kernel_details.csv has a line a kernel (look at the sum of "
            "Duration by Type, and for AI_CPU, which is slow), op_statistic.csv their sums, and "
            "trace_view.json opens in MindStudio Insight or in a browser's chrome://tracing"
        )
    return (
        "FRAMEWORK/*op_type_info*.csv has the time of each kind of operator, *op_detail_info*.csv "
        "a line an operator"
    )


def _start(device: str, folder: Path) -> Any:
    activity = ms.profiler.ProfilerActivity
    activities = {
        "Ascend": [activity.CPU, activity.NPU],
        "GPU": [activity.CPU, activity.GPU],
        "CPU": [activity.CPU],
    }[device]
    folder.mkdir(parents=True, exist_ok=True)
    handler = ms.profiler.tensorboard_trace_handler(str(folder))
    return ms.profiler.profile(activities=activities, on_trace_ready=handler)
