"""Train steps of the configured run, timed."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import numpy as np

from common import memory
from common.audio.augmentation import Augmentation
from common.data.batch_sampler import PlannedBatch, aligned
from common.data.dataset import Dataset
from common.data.loader import Batch
from common.doctor.measuring import say
from common.model.speech_model import SpeechModel
from common.training.epoch_plan import EpochPlan
from common.training.train_step import TrainStep

STEPS = 3  # timed of each size, where there is time for them
USUAL_BATCH = 8  # utterances, where the configured batches have fewer
QUANTILES = (0.05, 0.5, 0.95)  # of the batches of an epoch, by their padded frames


def padded(batch: PlannedBatch, pad_align: int) -> int:
    """Count the padded frames of a batch, over all its rows.

    Args:
        batch: The batch.
        pad_align: What the length of its rows is a multiple of.
    """
    return len(batch.indices) * int(aligned(batch.frames, pad_align))


class Steps:
    """Train steps on noise in the shapes of short, median and long batches of the plan.

    Args:
        speech_model: The network.
        step: Its train step.
        source: What is trained on; None: unknown.
        plan: Batches of an epoch.
        seconds: For which steps are timed, about.
        quick: Time only what the forecast of an epoch needs.
    """

    def __init__(
        self,
        speech_model: SpeechModel,
        step: TrainStep,
        source: Dataset | None,
        plan: list[PlannedBatch],
        seconds: float,
        quick: bool,
    ):
        self.speech_model, self.step, self.source, self.quick = speech_model, step, source, quick
        align = speech_model.config.DataConfig.pad_align
        self.plan = plan = sorted(plan, key=lambda batch: padded(batch, align))
        self.sizes = [plan[round(share * (len(plan) - 1))] for share in QUANTILES]
        self.rng, self.number = np.random.default_rng(0), 0
        self.seconds, self.end = seconds, 0.0

    def run(self) -> None:
        """Time the steps and report them."""
        # One utterance first: it compiles, and tells how many at once there is time for.
        lone = self.sizes[0] if self.speech_model.static_training else _first_rows(self.sizes[0], 1)
        (self.compiling,) = self._time(lone, 1)
        self.end = time.perf_counter() + self.seconds
        frame = min(self._time(lone, 2, say_it=True)) / padded(lone, 1)
        if not self.quick:
            self._larger_batches()
        for number, size in enumerate(self.sizes):
            left = self.end - time.perf_counter()
            if left <= 0 and number:
                return
            allowed = max(left, 0) / (len(self.sizes) - number)
            rows = len(size.indices)
            if not self.speech_model.static_training:
                # A step whose shape is new, and at least one that counts.
                rows = int(np.clip(allowed / (2 * frame * size.frames), 1, rows))
            part = _first_rows(size, rows) if rows < len(size.indices) else size
            first = self._time(part, 1)[0]
            frame = min(frame, first / padded(part, 1))
            if first > 2 * allowed and number:  # no time for a second one: it counts as it is
                self._say(part, [first], size)
                continue
            many = int(np.clip((allowed - first) / max(first, 1e-6), 1, STEPS))
            self._say(part, self._time(part, many), size)
        if not self.quick:
            self._larger_micro_batches()
            self._static_shapes()

    def _larger_micro_batches(self) -> None:
        """Time the median batch with as many utterances at once as the machine's memory allows.

        Only where that is more than the configuration lets through.
        """
        size, now = self.sizes[1], self.step.forecast
        limit = max(now.limit, memory.SHARE * memory.device_memory(self.speech_model.device))
        wide = replace(now, micro_batch=0, limit=limit)
        rows, could = (
            min(estimate.rows(size.frames), len(size.indices)) for estimate in (now, wide)
        )
        left = self.end - time.perf_counter()
        if could <= rows or left <= 0:
            return
        before = self._time(size, 2)
        if min(before) * 3 > left:
            return
        self.step.forecast = wide
        after = self._time(size, 3)[1:]
        self.step.forecast = now
        key = "micro_batch" if now.micro_batch else "memory_gib"
        say(
            micro_rows=[rows, could],
            micro_seconds=[min(before), min(after)],
            micro_key=f"TrainingConfig.{key}",
        )

    def _larger_batches(self) -> None:
        """Time a batch of usual size where the configured ones are smaller and memory allows."""
        size, rows = self.sizes[1], len(self.sizes[1].indices)
        left = self.end - time.perf_counter()
        if rows >= USUAL_BATCH or self.speech_model.static_training or left <= 0:
            return
        if self.step.forecast.rows(size.frames) < USUAL_BATCH:
            return
        before = min(self._time(size, 2))
        if before * USUAL_BATCH / rows > left:
            return
        indices = (size.indices * USUAL_BATCH)[:USUAL_BATCH]
        after = min(self._time(replace(size, indices=indices, valid=USUAL_BATCH), 2))
        say(batch_rows=[rows, USUAL_BATCH], batch_seconds=[before / rows, after / USUAL_BATCH])

    def _static_shapes(self) -> None:
        """Time a batch of median size in a graph of its own, where all graphs fit the memory.

        Dynamic shapes cost a small network on a CPU more than its arithmetic.
        """
        if self.speech_model.static_training or self.speech_model.device != "CPU":
            return
        if self.source is None or self.end - time.perf_counter() < 2 * self.compiling:
            return
        config = copy.deepcopy(self.speech_model.config)
        config.DataConfig.batch_shapes = "static"
        static = replace(self.speech_model, config=config)
        epoch_plan = EpochPlan(
            static, self.source, slowest=Augmentation(config.DataConfig.AugmentationConfig).slowest
        )
        forecast = memory.forecast_memory(static, shapes=epoch_plan.shapes)
        dynamic, size = self.step, self.sizes[1]
        peak = forecast.peak(len(size.indices), size.frames)
        if peak > forecast.limit:
            return
        before = min(self._time(size, 2))
        if self.end - time.perf_counter() < 2 * self.compiling + 3 * before:
            return
        before /= padded(size, 1)
        plan = sorted(epoch_plan.plan(1), key=lambda batch: batch.frames)
        size = plan[len(plan) // 2]
        self.step = TrainStep(static, forecast)
        compiling, *after = self._time(size, 3)
        self.step = dynamic
        epochs = (
            before * sum(padded(batch, 1) for batch in self.plan),
            min(after) / padded(size, 1) * sum(padded(batch, 1) for batch in plan),
        )
        say(
            static_seconds=epochs,
            static_compiling=compiling - min(after),
            static_graphs=len(epoch_plan.shapes or ()),
            static_memory=peak,
        )

    def _say(self, part: PlannedBatch, times: list[float], size: PlannedBatch) -> None:
        say(rows=len(part.indices), of=len(size.indices), frames=part.frames, times=times)

    def _time(self, planned: PlannedBatch, count: int, say_it: bool = False) -> list[float]:
        batch, times = self._noise(planned), []
        for _ in range(count):
            started = time.perf_counter()
            self.step([batch], 1e-4, self.number)
            times.append(time.perf_counter() - started)
            self.number += 1
        if say_it:
            self._say(planned, times, planned)
        return times

    def _noise(self, planned: PlannedBatch) -> Batch:
        """Noise with the lengths and label counts of the utterances.

        No two neighbouring labels are equal, so that they need no more frames than their number.
        """
        rows, indices = len(planned.indices), list(planned.indices)
        frames = int(aligned(planned.frames, self.speech_model.config.DataConfig.pad_align))
        lengths = np.full(rows, planned.frames, np.int32)
        counts = np.full(rows, planned.labels, np.int32)
        if self.source is not None:
            lengths = self.source.frames[indices].astype(np.int32)
            counts = self.source.label_counts[indices].astype(np.int32)
        blank, classes = self.speech_model.tokenizer.blank, len(self.speech_model.tokenizer)
        pair = [label for label in range(classes) if label != blank][:2]
        counts = counts if len(pair) == 2 else np.minimum(counts, 1)
        labels = max(planned.labels, 1)
        shape = rows, self.speech_model.featurizer.dimension, frames
        return Batch(
            features=self.rng.standard_normal(shape, np.float32),
            lengths=lengths,
            targets=np.tile(np.resize(pair, labels).astype(np.int32), (rows, 1)),
            target_lengths=counts,
            indices=tuple(indices),
            ids=tuple(map(str, indices)),
            valid=planned.valid,
            seconds=0.0,
        )


def _first_rows(batch: PlannedBatch, rows: int) -> PlannedBatch:
    return replace(batch, indices=batch.indices[:rows], valid=min(batch.valid, rows))
