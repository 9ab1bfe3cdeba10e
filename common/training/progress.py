"""Where a training run stands, and what it has measured since its last evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.loader import Batch
from common.evaluation.evaluate import Evaluation
from common.training.epoch_plan import EpochPlan
from common.training.metrics_log import EpochMetrics
from common.training.train_step import StepResult

# A network answers blanks, or the same few letters to everything, before it spells (for CTC: Graves
# 2012, "Supervised Sequence Labelling with Recurrent Neural Networks", chapter 7). That gives a CER
# of about 85 to 100 % in English, and chance decides which of these answers has the lowest.
SPELLS_BELOW_CER = 75.0  # percent


@dataclass
class Progress:
    """Where a run stands.

    With the weights and the optimizer's state, this is all that a resumed run needs.

    Attributes:
        epoch: Epochs done.
        batch: Batches done in the current epoch.
        step: Optimizer steps done.
        best_wer: Word error rate of the best evaluation so far (`update_best`), in percent; None:
            not evaluated yet.
        best_cer: Character error rate of the same evaluation, in percent.
        stale: Evaluations since the best one.
        skipped: Non-finite steps.
        skipped_in_a_row: Non-finite steps since the last finite one.
        seconds: Seconds spent training.
        loss_sum: Loss in nats since the last evaluation, of the utterances of finite steps on all
            ranks.
        loss_utterances: Number of these utterances.
        speech: Seconds of speech since the last evaluation, on all ranks.
        busy: Seconds since the last evaluation that this rank was busy.
        waiting: Seconds since the last evaluation that this rank waited for data.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_wer: float | None = None
    best_cer: float | None = None
    stale: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_utterances: int = 0
    speech: float = 0.0
    busy: float = 0.0
    waiting: float = 0.0

    def advance(
        self,
        group: Sequence[Batch],
        result: StepResult,
        elapsed: float,
        waited: float,
        epoch_batches: int,
    ) -> None:
        """Count one step.

        Args:
            group: This rank's batches of the step.
            result: What the step found.
            elapsed: Seconds that the step took.
            waited: Seconds waited for its data.
            epoch_batches: Number of batches in an epoch of this rank.
        """
        self.step += 1
        self.batch += len(group)
        if self.batch == epoch_batches:
            self.epoch, self.batch = self.epoch + 1, 0
        self.seconds += elapsed + waited
        self.busy += elapsed
        self.waiting += waited
        self.speech += result.seconds
        if result.applied:
            self.loss_sum += result.loss * result.utterances
            self.loss_utterances += result.utterances
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += not result.overflowed  # which no datum is to blame for

    def due(self, training: Any) -> bool:
        """Tell whether to evaluate now.

        That is every `eval_every` steps or after each epoch, and at the very end; not twice after
        the same step.

        Args:
            training: The TrainingConfig.
        """
        if self.busy == 0:
            return False
        if self.batch == 0 and (not training.eval_every or self.epoch == training.epochs):
            return True
        return training.eval_every > 0 and self.step % training.eval_every == 0

    @property
    def spells(self) -> bool:
        """Whether an evaluation has had a CER below SPELLS_BELOW_CER."""
        return self.best_cer is not None and self.best_cer < SPELLS_BELOW_CER

    def update_best(self, evaluation: Evaluation) -> bool:
        """Keep the scores if they are the best so far.

        Until the network spells, the newest evaluation is the best one, so that none counts for
        `TrainingConfig.patience`. From then on the lowest WER is, and CER decides between equal
        ones; the other way round where CER is the headline.

        Args:
            evaluation: The newest one.

        Returns:
            Whether it is the best.
        """
        wer, cer = evaluation.wer, evaluation.cer
        best = math.inf if self.best_wer is None else self.best_wer, self.best_cer or 0.0
        turned = slice(None, None, 1 if evaluation.headline == "WER" else -1)
        if self.spells and (wer, cer)[turned] >= best[turned]:
            self.stale += 1
            return False
        self.best_wer, self.best_cer, self.stale = wer, cer, 0
        return True

    def out_of_patience(self, training: Any) -> bool:
        """Tell whether `TrainingConfig.patience` evaluations have brought no better scores."""
        return 0 < training.patience <= self.stale

    def metrics(
        self, epoch_plan: EpochPlan, rates: np.ndarray, evaluation: Evaluation | None
    ) -> EpochMetrics:
        """Summarise what was measured since the last evaluation.

        Args:
            epoch_plan: The run's plan.
            rates: (steps of the run,) learning rates.
            evaluation: The newest one; None without a validation set.

        Returns:
            A row of metrics.csv.
        """
        spent = max(self.busy + self.waiting, 1e-9)
        blank_share = evaluation.blank_share if evaluation else None
        return EpochMetrics(
            epoch=round(self.epoch + self.batch / len(epoch_plan), 4),
            step=self.step,
            minutes=round(self.seconds / 60, 3),
            learning_rate=float(rates[self.step - 1]),
            train_loss=self.loss_sum / max(self.loss_utterances, 1),
            val_wer=evaluation.wer if evaluation else None,
            val_cer=evaluation.cer if evaluation else None,
            blank_share=None if blank_share is None else 100 * blank_share,
            speech_per_second=round(self.speech / spent, 2),
            data_wait=round(100 * self.waiting / spent, 2),
            skipped=self.skipped,
        )

    def reset_window(self) -> None:
        """Begin to measure anew, after an evaluation."""
        self.loss_sum, self.loss_utterances = 0.0, 0
        self.speech = self.busy = self.waiting = 0.0
