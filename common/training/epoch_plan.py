"""What a run trains on, and in which batches of which epoch."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.batch_sampler import PlannedBatch, plan_epoch, static_shapes
from common.data.dataset import Dataset
from common.data.selection import (
    COPY,
    CTC_INFEASIBLE,
    FAULTS,
    OUTSIDE_SUBSET,
    TOO_LONG,
    TOO_SHORT,
    LeftOut,
    SelectionRules,
    candidates_of,
    count_reasons,
    select,
)
from common.model.speech_model import SpeechModel
from common.utils.errors import UserError
from common.utils.wording import counted


class EpochPlan:
    """The batches of each epoch of a run, for this rank and, where it matters, for all.

    Attributes:
        dataset: What is trained on.
        rank: Number of this process.
        ranks: Number of processes.
        shapes: Static shapes (frames, labels) of the batches; None where shapes are dynamic.
        steps_per_epoch: Optimizer steps in an epoch.
    """

    def __init__(
        self,
        speech_model: SpeechModel,
        dataset: Dataset,
        rank: int = 0,
        ranks: int = 1,
        slowest: float = 1.0,
    ):
        """Plan the epochs.

        Args:
            speech_model: Gives configuration and, for static shapes, the device.
            dataset: What is trained on.
            rank: Number of this process.
            ranks: Number of processes.
            slowest: Speed factor by which augmentation makes utterances the longest.

        Raises:
            UserError: TrainingConfig.accumulation_step is below 1, or an utterance fits no static
                shape.
        """
        data, training = speech_model.config.DataConfig, speech_model.config.TrainingConfig
        if training.accumulation_step < 1:
            raise UserError(
                f"TrainingConfig.accumulation_step={training.accumulation_step}: expected 1 or more"
            )
        self.dataset, self.rank, self.ranks = dataset, rank, ranks
        self.accumulation = training.accumulation_step
        self.versions = SpeedVariants(dataset, training.seed)
        self.shapes = None
        if speech_model.static_training:
            self.shapes = static_shapes(
                self.versions.most_frames,
                self.versions.labels,
                data.static_shapes,
                data.pad_align,
                slowest,
            )
        self.arguments = {
            "batch_size": data.batch_size,
            "seed": training.seed,
            "world_size": ranks,
            "shapes": self.shapes,
        }
        self.batches = len(self.plan(0))
        self.steps_per_epoch = math.ceil(self.batches / self.accumulation)
        self._totals: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch of this rank."""
        return self.batches

    @property
    def utterances(self) -> int:
        """Number of utterances in an epoch, of all ranks."""
        return len(self.versions.labels)

    @property
    def hours(self) -> float:
        """Hours of speech in an epoch, at the speed of each utterance's first recording."""
        return float(self.dataset.durations[self.versions.first].sum()) / 3600

    def plan(self, epoch: int, rank: int | None = None) -> list[PlannedBatch]:
        """Plan one epoch.

        Args:
            epoch: Number of the epoch, from 0.
            rank: Whose batches; None: this process's.

        Returns:
            The batches in their order.
        """
        chosen = self.versions.draw(epoch)
        # Shapes by the longest version: their numbers of batches are the same in every epoch.
        frames = self.versions.most_frames if self.shapes else self.dataset.frames[chosen]
        plan = plan_epoch(
            frames,
            self.versions.labels,
            epoch=epoch,
            rank=self.rank if rank is None else rank,
            **self.arguments,
        )
        return [
            replace(batch, indices=tuple(chosen[list(batch.indices)].tolist())) for batch in plan
        ]

    def counting(self, epoch: int, first: int, count: int) -> int:
        """Count the utterances of some batches over all ranks, without repeated rows.

        Args:
            epoch: Number of the epoch.
            first: Index of the first batch.
            count: Number of batches.

        Returns:
            Number of utterances.
        """
        if self._totals is None or self._totals[0] != epoch:
            valid = [
                [planned.valid for planned in self.plan(epoch, rank)] for rank in range(self.ranks)
            ]
            self._totals = epoch, np.sum(valid, axis=0)
        return int(self._totals[1][first : first + count].sum())


class SpeedVariants:
    """The recordings of each utterance of a dataset: one, or several at different speeds.

    Attributes:
        most_frames: (U,) feature frames of each utterance's longest recording.
        labels: (U,) label count of each utterance.
        first: (U,) index in the dataset of each utterance's first recording.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.seed = seed
        self.order = np.argsort(dataset.spoken, kind="stable")  # utterance by utterance
        _, self.starts, self.counts = np.unique(
            dataset.spoken[self.order], return_index=True, return_counts=True
        )
        self.most_frames = np.maximum.reduceat(dataset.frames[self.order], self.starts)
        self.first = self.order[self.starts]
        self.labels = dataset.label_counts[self.first]

    def draw(self, epoch: int) -> np.ndarray:
        """Draw one recording of each utterance, by seed and epoch.

        Args:
            epoch: Number of the epoch.

        Returns:
            (U,) indices in the dataset.
        """
        rng = np.random.default_rng((self.seed, epoch, len(self.order)))
        return self.order[self.starts + rng.integers(self.counts)]


def select_training_examples(
    speech_model: SpeechModel, dataset: Dataset, log: logging.Logger
) -> Dataset:
    """Select what is trained on, by the rules of the configuration.

    A corpus converted with wider limits needs no new conversion.

    Args:
        speech_model: Network and configuration.
        dataset: The converted utterances.
        log: Receives the number of utterances left out for each reason, and at debug level
            (in the log file alone) each utterance that has a fault.

    Returns:
        The part of the dataset that is trained on.

    Raises:
        UserError: There is nothing left.
    """
    rules = SelectionRules.for_training(speech_model.config, speech_model.output_frames)
    selection = select(candidates_of(dataset), rules)
    _log_left_out([*dataset.left_out, *selection.left_out], log)
    if len(selection.kept) == 0:
        raise UserError(
            f"nothing to train on: none of {len(np.unique(dataset.spoken))} utterances fits the "
            "network's output frames and lasts from DataConfig.min_duration to max_duration"
        )
    return dataset if len(selection.kept) == len(dataset) else dataset.subset(selection.kept)


_LEFT_OUT = {
    TOO_SHORT: ("utterance", " shorter than DataConfig.min_duration"),
    TOO_LONG: ("utterance", " longer than DataConfig.max_duration"),
    CTC_INFEASIBLE: ("utterance", " whose text does not fit the network's output frames"),
    COPY: ("recording", " at another speed (DataConfig.ignore_offline_speed_perturbation)"),
    OUTSIDE_SUBSET: ("utterance", " outside the subset (DataConfig.max_hours, max_utterances)"),
}


def _log_left_out(left_out: Sequence[LeftOut], log: logging.Logger) -> None:
    for reason, count in count_reasons(left_out).items():
        what, which = _LEFT_OUT.get(reason, ("utterance", f", {reason}"))
        log.info(f"left out: {counted(count, what)}{which}")
    faults = [utterance for utterance in left_out if utterance.reason in FAULTS]
    files = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    if faults and files:
        log.info(f"left out: each with its reason in {files[0].baseFilename}")
    for utterance in faults:
        log.debug(f"  {utterance.id}: {utterance.reason}: {utterance.message}")


def identity_of(dataset: Dataset, ranks: int) -> dict[str, Any]:
    """Describe what must be the same of the data for a run to go on exactly.

    Args:
        dataset: What is trained or evaluated on.
        ranks: Number of processes.

    Returns:
        Number of utterances, a digest of their ids, texts and lengths, and the number of processes.
    """
    digest = hashlib.sha256()
    for entry in dataset.entries:
        digest.update(f"{entry.id}\n{entry.text}\n{entry.frames}\n".encode())
    return {"utterances": len(dataset), "digest": digest.hexdigest()[:16], "ranks": ranks}
