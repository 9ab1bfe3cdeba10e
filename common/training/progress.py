"""Where a run stands, what it has measured, and how it tells people so."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.audio.augmentation import Augmentation
from common.data.batch_sampler import padded_share
from common.data.dataset import Dataset
from common.data.loader import Batch
from common.evaluation.evaluate import Evaluation
from common.memory import MemoryEstimate
from common.model.checkpoint import CheckpointKeeper
from common.model.speech_model import SpeechModel
from common.training.epoch_plan import EpochPlan
from common.training.metrics_log import EpochMetrics
from common.training.train_step import StepResult


@dataclass
class Progress:
    """Where a run stands: with the weights and the optimizer's state, all that resuming needs."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done in the current epoch
    step: int = 0  # optimizer steps done
    best_wer: float | None = None
    best_cer: float | None = None
    stale: int = 0  # evaluations since the best one
    skipped: int = 0  # non-finite steps
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # spent training
    # Since the last evaluation, of all ranks (but the seconds that this one was busy or waited):
    loss_sum: float = 0.0  # over the utterances of finite steps
    loss_utterances: int = 0
    speech: float = 0.0  # seconds
    busy: float = 0.0  # seconds
    waiting: float = 0.0  # seconds, for data

    def advance(
        self,
        group: Sequence[Batch],
        result: StepResult,
        elapsed: float,
        waited: float,
        epoch_batches: int,
    ) -> None:
        """Counts one step over `group`; the seconds it took, and those waited for its data."""
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
        """Whether to evaluate now: every so many steps or after each epoch, and at the very end;
        not twice after the same step."""
        if self.busy == 0:
            return False
        if self.batch == 0 and (not training.eval_every or self.epoch == training.epochs):
            return True
        return training.eval_every > 0 and self.step % training.eval_every == 0

    def better(self, found: Evaluation) -> bool:
        """Notes the best WER so far; CER decides between equal ones."""
        best = (
            math.inf if self.best_wer is None else self.best_wer,
            math.inf if self.best_cer is None else self.best_cer,
        )
        if (found.wer, found.cer) < best:
            self.best_wer, self.best_cer, self.stale = found.wer, found.cer, 0
            return True
        self.stale += 1
        return False

    def out_of_patience(self, training: Any) -> bool:
        return 0 < training.patience <= self.stale

    def figures(
        self, planner: EpochPlan, rates: np.ndarray, found: Evaluation | None
    ) -> EpochMetrics:
        """A row of the history."""
        spent = max(self.busy + self.waiting, 1e-9)
        return EpochMetrics(
            epoch=round(self.epoch + self.batch / len(planner), 4),
            step=self.step,
            minutes=round(self.seconds / 60, 3),
            learning_rate=float(rates[self.step - 1]),
            train_loss=self.loss_sum / max(self.loss_utterances, 1),
            val_wer=found.wer if found else None,
            val_cer=found.cer if found else None,
            blank_share=100 * found.blank_share if found else None,
            speech_per_second=round(self.speech / spent, 2),
            data_wait=round(100 * self.waiting / spent, 2),
            skipped=self.skipped,
        )

    def reset_window(self) -> None:
        self.loss_sum, self.loss_utterances = 0.0, 0
        self.speech = self.busy = self.waiting = 0.0


class Reporter:
    """What a run tells people: lines in the log, and a progress bar for each epoch.

    log: INFO goes to console and file, DEBUG to the file alone. On ranks other than 0 there is no
    bar, and their log has no console.
    """

    def __init__(
        self, log: logging.Logger, speech_model: SpeechModel, planner: EpochPlan, rank: int
    ):
        self.log, self.planner, self.rank = log, planner, rank
        self.speech_model = speech_model
        self.epochs = speech_model.config.TrainingConfig.epochs
        self.bar: tqdm | None = None

    def start(
        self, validation: Dataset | None, forecast: MemoryEstimate, progress: Progress
    ) -> None:
        """The run in a few lines; refuses one that cannot fit the memory."""
        source, planner, network = self.planner.source, self.planner, self.speech_model
        features = network.featurizer.config
        self.log.info(
            f"{network.recipe.name} on {network.device}: {network.parameters() / 1e6:.1f} M "
            f"parameters, {features.kind} of {features.dimension} bins at {features.sample_rate} "
            f"Hz, {len(network.vocabulary)} labels"
        )
        batch_size = network.config.DataConfig.batch_size
        ranks = f" on each of {planner.ranks} ranks" if planner.ranks > 1 else ""
        self.log.info(
            f"training: {planner.utterances} utterances, {planner.hours:.2f} hours, "
            f"{len(planner)} batches of {batch_size} an epoch{ranks}, "
            f"{100 * padded_share(planner.plan(1), source.frames):.1f} % padding"
        )
        if planner.utterances < len(source):
            self.log.info(
                f"one of its recordings for each utterance in each epoch, of {len(source)} in all"
            )
        if planner.shapes:
            self.log.info(f"static shapes (frames, labels): {planner.shapes}")
        if validation is not None:
            self.log.info(f"validation: {len(validation)} utterances")
        varied = Augmentation(network.config.DataConfig.AugmentationConfig)
        longest = int(source.frames.max() / varied.slowest)
        forecast.check(longest)
        self.log.info(forecast.line(batch_size, longest))
        if progress.step:
            self.log.info(f"resumed at epoch {progress.epoch + 1}, step {progress.step}")

    def open_bar(self, epoch: int, batches: int) -> None:
        self.bar = tqdm(
            total=batches,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="batch",
            disable=None if self.rank == 0 else True,  # None: where nobody looks at a terminal
            leave=False,
        )

    def step(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        where = f"epoch: {epoch + 1} step: {progress.step - epoch * self.planner.steps_per_epoch}"
        self.log.debug(f"{where}, loss is {result.loss:.6g}")
        if result.overflowed:
            self.log.warning(
                f"{where} skipped, the gradient overflowed at a loss scale of {result.scale:g}; "
                f"{result.scale / 2:g} from here on"
            )
        elif not result.applied:
            self.log.warning(
                f"{where} skipped, not finite (loss {result.loss:g}, gradient norm "
                f"{result.norm:g}); utterances: {', '.join(result.blamed)}"
            )
        spent = max(progress.busy + progress.waiting, 1e-9)
        self.bar.set_postfix_str(
            f"loss {result.loss:.2f}, {progress.speech / spent:.1f} s speech/s, "
            f"waiting {100 * progress.waiting / spent:.0f}%"
        )
        self.bar.update(batches)

    def evaluated(
        self, figures: EpochMetrics, left: float, found: Evaluation | None, better: bool, count: int
    ) -> None:
        """left: seconds to the end of the run; count: hypotheses shown beside their references."""
        line = (
            f"epoch {figures.epoch:g}: loss {figures.train_loss:.3f}, {figures.minutes:.1f} min, "
            f"{left / 60:.1f} left; {figures.speech_per_second:.1f} s of speech per second, "
            f"{figures.data_wait:.1f} % waiting for data"
        )
        if found is not None:
            line += (
                f"; validation WER {found.wer:.2f} CER {found.cer:.2f} "
                f"blanks {100 * found.blank_share:.0f} %{' (best)' if better else ''}"
            )
        self.log.info(line)
        if found is None or count < 1:
            return
        spread = np.linspace(0, len(found.utterances) - 1, count).astype(int)
        for utterance in [found.utterances[index] for index in np.unique(spread)]:
            self.log.info(f"  ref: {utterance.reference}")
            self.log.info(f"  hyp: {utterance.hypothesis}")

    def end(self, progress: Progress, keeper: CheckpointKeeper, files: Sequence[Path]) -> None:
        if progress.out_of_patience(self.speech_model.config.TrainingConfig):
            self.log.info(
                f"stopped early: {progress.stale} evaluations without a better WER than "
                f"{progress.best_wer:.2f}"
            )
        line = (
            f"trained {progress.epoch} epochs, {progress.step} steps, in "
            f"{progress.seconds / 60:.1f} minutes"
        )
        if progress.best_wer is not None:
            line += f"; best WER {progress.best_wer:.2f} in {keeper.best}"
        if progress.skipped:
            line += f"; {progress.skipped} steps were skipped"
        self.log.info(f"{line}; last state in {keeper.last}")
        self.log.info(f"figures and pictures in {', '.join(str(file) for file in files)}")
