"""What a run trains on, and in which batches of which epoch."""

from __future__ import annotations

import hashlib
import logging
import math
from typing import Any

import numpy as np

from common.batching import PlannedBatch, plan_epoch, static_shapes
from common.errors import UserError
from common.recogniser import Recogniser
from common.sources import Source


class Planner:
    """The plans of a run's epochs, for this rank and, where it matters, for all."""

    def __init__(self, recogniser: Recogniser, source: Source, rank: int = 0, ranks: int = 1):
        data, training = recogniser.config.DataConfig, recogniser.config.TrainingConfig
        if training.accumulation_step < 1:
            raise UserError(
                f"TrainingConfig.accumulation_step={training.accumulation_step}: expected 1 or more"
            )
        self.source, self.rank, self.ranks = source, rank, ranks
        self.accumulation = training.accumulation_step
        self.arguments = {
            "batch_size": data.batch_size,
            "seed": training.seed,
            "world_size": ranks,
            "shapes": static_shapes(source.frames, source.label_counts, data.static_shapes)
            if recogniser.static
            else None,
        }
        self.shapes = self.arguments["shapes"]
        self.batches = len(self.plan(0))
        self.steps_per_epoch = math.ceil(self.batches / self.accumulation)
        self._totals: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches in an epoch of this rank."""
        return self.batches

    def plan(self, epoch: int, rank: int | None = None) -> list[PlannedBatch]:
        return plan_epoch(
            self.source.frames,
            self.source.label_counts,
            epoch=epoch,
            rank=self.rank if rank is None else rank,
            **self.arguments,
        )

    def counting(self, epoch: int, first: int, count: int) -> int:
        """Utterances that count, over all ranks, in `count` batches from batch `first` on."""
        if self._totals is None or self._totals[0] != epoch:
            valid = [
                [planned.valid for planned in self.plan(epoch, rank)] for rank in range(self.ranks)
            ]
            self._totals = epoch, np.sum(valid, axis=0)
        return int(self._totals[1][first : first + count].sum())


def trainable(recogniser: Recogniser, source: Source, log: logging.Logger) -> Source:
    """The part of a source that is trained on: what has the wanted duration and fits CTC, then the
    subset that was asked for. Files converted with wider limits need no new conversion."""
    data = recogniser.config.DataConfig
    fits = recogniser.output_frames(source.frames) >= source.ctc_frames
    lasts = (source.durations >= data.min_duration) & (source.durations <= data.max_duration)
    for good, why in (
        (fits, "whose text does not fit the network's output frames"),
        (lasts, "shorter than DataConfig.min_duration or longer than max_duration"),
    ):
        if not good.all():
            log.info(f"left out: {np.count_nonzero(~good)} utterances {why}")
    chosen = np.flatnonzero(fits & lasts)
    if data.max_hours > 0 or data.max_utterances > 0:
        order = np.random.default_rng(recogniser.config.TrainingConfig.seed).permutation(chosen)
        if data.max_hours > 0:
            hours = np.cumsum(source.durations[order]) / 3600
            order = order[: max(1, int(np.searchsorted(hours, data.max_hours, side="right")))]
        if data.max_utterances > 0:
            order = order[: data.max_utterances]
        chosen = np.sort(order)
    if len(chosen) == 0:
        raise UserError(
            f"nothing to train on: none of {len(source)} utterances fits the network's output "
            "frames and lasts from DataConfig.min_duration to max_duration"
        )
    return source if len(chosen) == len(source) else source.subset(chosen)


def identity_of(source: Source, ranks: int) -> dict[str, Any]:
    """What of the data must be the same for a run to go on exactly."""
    digest = hashlib.sha256()
    for entry in source.entries:
        digest.update(f"{entry.id}\n{entry.text}\n{entry.frames}\n".encode())
    return {"utterances": len(source), "digest": digest.hexdigest()[:16], "ranks": ranks}
