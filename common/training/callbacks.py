"""What accompanies a training run: metrics, plots, checkpoints, console, heartbeat.

A `Callback` is told what happens and changes nothing of what is computed. `Trainer` calls each hook
of all callbacks, in their order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.data.batch_sampler import padded_share
from common.data.dataset import Dataset
from common.evaluation.evaluate import Evaluation, Prediction
from common.model.checkpoint import CheckpointKeeper
from common.model.speech_model import SpeechModel
from common.training.disk_space import forecast_disk
from common.training.emission_animation import EmissionAnimation
from common.training.epoch_plan import EpochPlan
from common.training.figures import OWNER
from common.training.heartbeat import Heartbeat
from common.training.metrics_log import EpochMetrics, History
from common.training.progress import SPELLS_BELOW_CER, Progress
from common.training.stopping import StopReason, TrainingResult
from common.training.train_step import StepResult, TrainStep
from common.utils.backend import Parameter
from common.utils.errors import UserError
from common.utils.wording import counted


@dataclass(frozen=True)
class EvaluationReport:
    """What is known after an evaluation.

    Attributes:
        progress: Where the run stands.
        metrics: Since the last evaluation.
        evaluation: Of the validation set; None without one.
        is_best: Whether it is the best so far (`Progress.update_best`).
        seconds_left: Seconds to the last planned step, at the mean pace so far.
    """

    progress: Progress
    metrics: EpochMetrics
    evaluation: Evaluation | None
    is_best: bool
    seconds_left: float


class Callback:
    """Hooks of a training run; a subclass overrides those that it needs.

    Attributes:
        files: What the callback writes into the run's folder. A new run moves those of an earlier
            one aside; those that exist at the end are named in the log.
    """

    files: Sequence[Path] = ()

    def on_run_start(self, progress: Progress) -> None:
        """Run once before the first step, when nothing has refused the run.

        Args:
            progress: Where the run stands; `progress.step` is above 0 in a resumed run.
        """

    def on_epoch_start(self, epoch: int, batches: int) -> None:
        """Run before the first step of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            batches: Number of batches of this rank that are left in the epoch.
        """

    def on_step_end(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        """Run after each optimizer step.

        Args:
            progress: Where the run stands, with this step counted.
            epoch: Number of the epoch that the step belongs to, from 0.
            result: What the step found, the same on all ranks.
            batches: Number of this rank's batches in the step.
        """

    def on_prediction(self, progress: Progress, prediction: Prediction) -> None:
        """Run for each validation utterance of this rank.

        Args:
            progress: Where the run stands.
            prediction: The network's output for the utterance. Its arrays are views, to be copied
                if they are kept.
        """

    def on_evaluation_end(self, report: EvaluationReport) -> None:
        """Run after each evaluation, also where there is no validation set.

        Args:
            report: Metrics since the last evaluation, and error rates of this one.
        """

    def on_epoch_end(self) -> None:
        """Run when an epoch ends, and when something ends the run in the middle of one."""

    def on_early_end(self, progress: Progress) -> None:
        """Run where a signal or a failure ends the run before its time; it can be resumed.

        Args:
            progress: Where the run stands.

        Raises:
            UserError: What is to be kept cannot be written.
        """

    def on_run_end(self, result: TrainingResult) -> None:
        """Run at the end, unless an exception ends the run.

        Args:
            result: Where the run ended, and why.
        """


class MetricsWriter(Callback):
    """Writes metrics.csv and curves.png; what cannot be written is a warning."""

    def __init__(
        self,
        history: History,
        curves: Path,
        title: str,
        log: logging.Logger,
        checkpoint: Path,
        steps_per_epoch: int,
    ):
        self.history, self.curves, self.title, self.log = history, curves, title, log
        self.checkpoint = checkpoint  # `last`, by which the figures are known
        self.steps_per_epoch = steps_per_epoch
        self.files = (history.path, curves)

    def on_step_end(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        """Keep the loss for the curves.

        Args:
            progress: Where the run stands, with this step counted.
            epoch: Number of the epoch that the step belongs to, from 0.
            result: Outcome of the step.
            batches: Number of this rank's batches in the step.
        """
        self.history.add_step(progress.step / self.steps_per_epoch, result.loss)

    def on_evaluation_end(self, report: EvaluationReport) -> None:
        """Add a row and draw the curves."""
        _warn_where_unwritten(self.log, lambda: self.history.add(report.metrics))
        _warn_where_unwritten(self.log, self._draw)

    def _draw(self) -> None:
        self.history.draw(self.curves, self.title, {OWNER: str(self.checkpoint)})


class EmissionPlots(Callback):
    """Writes what the network emits for one utterance, evaluation by evaluation."""

    def __init__(self, animation: EmissionAnimation, log: logging.Logger):
        self.animation, self.log = animation, log
        self.files = (animation.gif, animation.png, animation.npz)

    def on_prediction(self, progress: Progress, prediction: Prediction) -> None:
        """Keep the log-probabilities of the utterance that is shown.

        Args:
            progress: Where the run stands.
            prediction: The network's output for the utterance; its arrays are views.
        """
        self.animation.watch(prediction)

    def on_evaluation_end(self, report: EvaluationReport) -> None:
        """Add a frame and draw the animation."""
        _warn_where_unwritten(self.log, lambda: self.animation.add(report.metrics))
        _warn_where_unwritten(self.log, self.animation.draw)


class CheckpointWriter(Callback):
    """Writes `last` after each evaluation and at an early end, `best` where WER has improved."""

    def __init__(
        self,
        keeper: CheckpointKeeper,
        speech_model: SpeechModel,
        step: TrainStep,
        epoch_plan: EpochPlan,
        identity: dict[str, Any],
        log: logging.Logger,
    ):
        self.keeper, self.speech_model, self.step = keeper, speech_model, step
        self.epoch_plan, self.identity, self.log = epoch_plan, identity, log

    def on_run_start(self, progress: Progress) -> None:
        """Say what disk the checkpoints will take, and whether that is more than there is."""
        best = _bytes(self.speech_model.network.get_parameters())
        numbered = best + _bytes(self.step.state().values())
        files = [path for path in (*self.keeper.numbered(), self.keeper.best) if path.is_file()]
        line, warning = forecast_disk(
            self.keeper.folder,
            self.keeper.keep,
            numbered,
            best,
            sum(path.stat().st_size for path in files),
        )
        self.log.info(line)
        if warning:
            self.log.warning(warning)

    def on_evaluation_end(self, report: EvaluationReport) -> None:
        """Save a checkpoint; UserError where that fails."""
        self.save(report.progress, report.is_best)

    def on_early_end(self, progress: Progress) -> None:
        """Save a checkpoint; UserError where that fails."""
        self.save(progress, is_best=False)

    def save(self, progress: Progress, is_best: bool) -> None:
        """Write the checkpoints.

        Args:
            progress: Where the run stands.
            is_best: Whether the weights are the best so far.

        Raises:
            UserError: A checkpoint cannot be written; the earlier ones are untouched.
        """
        metadata = self.speech_model.metadata(
            progress=asdict(progress),
            data=self.identity,
            memory_limit=self.step.forecast.limit,
            shapes=self.epoch_plan.shapes,
            loss_scale=self.step.scaling.state(),
        )
        if is_best:  # before `last`, which says how good the best is: a kill may come in between
            scores = {"wer": progress.best_wer, "cer": progress.best_cer}
            self.keeper.save_best(self.step.result(), {**metadata, "scores": scores})
        weights = dict(self.speech_model.network.parameters_dict().items())
        path = self.keeper.save_last(
            {**weights, **self.step.state()}, metadata, progress.epoch, progress.step
        )
        self.log.debug(f"checkpoint {path}")


class HeartbeatSender(Callback):
    """Tells the launcher that this process is alive, and where its checkpoint is."""

    def __init__(self, heartbeat: Heartbeat, last_checkpoint: Path):
        self.heartbeat, self.last_checkpoint = heartbeat, last_checkpoint

    def on_run_start(self, progress: Progress) -> None:
        """Tell the launcher that `last` is of this run from here on."""
        self.heartbeat.set_checkpoint(self.last_checkpoint)

    def on_step_end(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        """Tell the launcher that a step is finished.

        Args:
            progress: Where the run stands, with this step counted.
            epoch: Number of the epoch that the step belongs to, from 0.
            result: Outcome of the step.
            batches: Number of this rank's batches in the step.
        """
        self.heartbeat.step_finished(progress.step)

    def on_prediction(self, progress: Progress, prediction: Prediction) -> None:
        """Tell the launcher that an evaluation goes on.

        Args:
            progress: Where the run stands.
            prediction: The network's output for the utterance; its arrays are views.
        """
        self.heartbeat.beat(f"evaluating after step {progress.step}")

    def on_run_end(self, result: TrainingResult) -> None:
        """Tell the launcher that the run is complete, so that exit code 0 is right."""
        if result.completed:
            self.heartbeat.finished()


class ConsoleProgress(Callback):
    """What a run tells people: lines in the log, and a progress bar for each epoch.

    INFO lines go to console and file, DEBUG lines (each step) to the file alone. Ranks other than 0
    have no bar, and their log no console.
    """

    def __init__(
        self,
        log: logging.Logger,
        speech_model: SpeechModel,
        epoch_plan: EpochPlan,
        validation: Dataset | None,
        memory_line: str,
        rank: int = 0,
    ):
        self.log, self.speech_model, self.epoch_plan = log, speech_model, epoch_plan
        self.validation, self.memory_line, self.rank = validation, memory_line, rank
        self.training = speech_model.config.TrainingConfig
        self.bar: tqdm | None = None
        self.explained = False  # whether the lines say why WER does not count yet

    def on_run_start(self, progress: Progress) -> None:
        """Sum the run up in a few lines."""
        epoch_plan, model = self.epoch_plan, self.speech_model
        dataset, features = epoch_plan.dataset, model.featurizer.config
        self.log.info(
            f"{model.recipe.name} on {model.device}: {model.parameters() / 1e6:.1f} M "
            f"parameters, {features.kind} of {features.dimension} bins at {features.sample_rate} "
            f"Hz, {counted(len(model.tokenizer), 'label')}"
        )
        ranks = f" on each of {epoch_plan.ranks} ranks" if epoch_plan.ranks > 1 else ""
        batches = counted(len(epoch_plan), "batch", "batches")
        self.log.info(
            f"training: {counted(epoch_plan.utterances, 'utterance')}, {epoch_plan.hours:.2f} "
            f"hours, {batches} of {model.config.DataConfig.batch_size} an epoch{ranks}, "
            f"{100 * padded_share(epoch_plan.plan(1), dataset.frames):.1f} % padding"
        )
        if epoch_plan.utterances < len(dataset):
            self.log.info(
                f"one of its recordings for each utterance in each epoch, of {len(dataset)} in all"
            )
        if epoch_plan.shapes:
            self.log.info(f"static shapes (frames, labels): {epoch_plan.shapes}")
        if self.validation is not None:
            self.log.info(f"validation: {counted(len(self.validation), 'utterance')}")
            if note := model.tokenizer.words_note:
                self.log.info(note)
        self.log.info(self.memory_line)
        if progress.step:
            self.log.info(f"resumed at epoch {progress.epoch + 1}, step {progress.step}")

    def on_epoch_start(self, epoch: int, batches: int) -> None:
        """Open the progress bar.

        Args:
            epoch: Number of the epoch, from 0.
            batches: Number of batches of this rank that are left in the epoch.
        """
        self.bar = tqdm(
            total=batches,
            desc=f"epoch {epoch + 1}/{self.training.epochs}",
            unit="batch",
            disable=None if self.rank == 0 else True,  # None: where the output is no terminal
            leave=False,
        )

    def on_step_end(self, progress: Progress, epoch: int, result: StepResult, batches: int) -> None:
        """Log the loss, and why a step was skipped.

        Args:
            progress: Where the run stands, with this step counted.
            epoch: Number of the epoch that the step belongs to, from 0.
            result: Outcome of the step.
            batches: Number of this rank's batches in the step.
        """
        number = progress.step - epoch * self.epoch_plan.steps_per_epoch
        where = f"epoch: {epoch + 1} step: {number}"
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
        if self.bar is None:
            return
        spent = max(progress.busy + progress.waiting, 1e-9)
        self.bar.set_postfix_str(
            f"loss {result.loss:.2f}, {progress.speech / spent:.1f} s speech/s, "
            f"waiting {100 * progress.waiting / spent:.0f}%"
        )
        self.bar.update(batches)

    def on_evaluation_end(self, report: EvaluationReport) -> None:
        """Log the metrics and some hypotheses beside their references."""
        metrics, evaluation = report.metrics, report.evaluation
        line = (
            f"epoch {metrics.epoch:g}: loss {metrics.train_loss:.3f}, {metrics.minutes:.1f} min, "
            f"{report.seconds_left / 60:.1f} left; {metrics.speech_per_second:.1f} s of speech per "
            f"second, {metrics.data_wait:.1f} % waiting for data"
        )
        if evaluation is not None:
            rates = " ".join(f"{name} {rate:.2f}" for name, rate in evaluation.rates.items())
            line += f"; validation {rates}"
            if evaluation.blank_share is not None:
                line += f" blanks {100 * evaluation.blank_share:.0f} %"
            line += " (best)" if report.is_best else ""
        self.log.info(line)
        if evaluation is not None and not report.progress.spells:
            self._explain_babble()
        count = self.training.hypotheses
        if evaluation is None or count < 1:
            return
        spread = np.linspace(0, len(evaluation.utterances) - 1, count).astype(int)
        for utterance in [evaluation.utterances[index] for index in np.unique(spread)]:
            self.log.info(f"  ref: {utterance.reference}")
            self.log.info(f"  hyp: {utterance.hypothesis}")

    def _explain_babble(self) -> None:
        """Say once why WER does not count yet."""
        if self.explained:
            return
        self.explained = True
        patience = ", and none counts for patience" if self.training.patience else ""
        self.log.info(
            f"until an evaluation has a CER below {SPELLS_BELOW_CER:g} %, blanks or a few letters "
            "are all that the network answers, which is normal at first: each evaluation is the "
            f"best so far{patience}"
        )

    def on_epoch_end(self) -> None:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.close()

    def on_run_end(self, result: TrainingResult) -> None:
        """Sum up the results of a run that ended as planned."""
        if not result.completed or self.rank != 0:
            return
        progress = result.progress
        if result.stop.reason == StopReason.OUT_OF_PATIENCE:
            self.log.info(
                f"stopped early: {counted(progress.stale, 'evaluation')} without a better WER than "
                f"{progress.best_wer:.2f}"
            )
        line = (
            f"trained {counted(progress.epoch, 'epoch')}, {counted(progress.step, 'step')}, in "
            f"{progress.seconds / 60:.1f} minutes"
        )
        if progress.best_wer is not None:
            line += f"; best WER {progress.best_wer:.2f} in {result.best_checkpoint}"
        if progress.skipped:
            line += f"; {counted(progress.skipped, 'step')} skipped"
        self.log.info(f"{line}; last state in {result.last_checkpoint}")
        if progress.best_wer is not None and not progress.spells:
            self.log.info(
                f"the network does not spell yet (CER {progress.best_cer:.2f}): train for more "
                "epochs, TrainingConfig.epochs with --resume, or on more data"
            )
        if result.files:
            self.log.info(f"figures and pictures in {', '.join(map(str, result.files))}")


def _bytes(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.size * parameter.itemsize for parameter in parameters)


def _warn_where_unwritten(log: logging.Logger, write: Callable[[], None]) -> None:
    """Write, and warn where that fails: a full disk costs the figures and not the run."""
    try:
        write()
    except UserError as error:
        log.warning(f"figures not written: {error}")
