"""The training loop: `Trainer.fit` reads from top to bottom.

What a step does is in `common.training.train_step`, the order of the batches in
`common.data.batch_sampler`, what is written beside in `common.training.callbacks`. Everything
random is drawn from (seed, epoch or step, utterance), so the place in the plan, the weights and the
optimizer's state are all that a resumed run needs to go on exactly.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configs
from common.audio.augmentation import Augmentation
from common.data.dataset import Dataset
from common.data.loader import Batch, batches
from common.data.splits import open_split
from common.evaluation.evaluate import Evaluation, Prediction, RankShard, evaluate
from common.memory import GIB, MemoryEstimate, device_memory, forecast_memory
from common.model import checkpoint as checkpoints
from common.model.checkpoint import CheckpointKeeper
from common.model.recipe import Recipe
from common.model.speech_model import SpeechModel, described_config
from common.text.tokenizer import stored_tokenizer
from common.training import figures
from common.training.callbacks import (
    Callback,
    CheckpointWriter,
    ConsoleProgress,
    EmissionPlots,
    EvaluationReport,
    HeartbeatSender,
    MetricsWriter,
)
from common.training.distributed import ProcessGroup, RemoteRankError
from common.training.emission_animation import EmissionAnimation
from common.training.epoch_plan import EpochPlan, identity_of, select_training_examples
from common.training.heartbeat import Heartbeat
from common.training.lr_schedules import make_schedule
from common.training.metrics_log import History
from common.training.progress import Progress
from common.training.stopping import Stop, StopReason, StopRequest, TrainingResult
from common.training.train_step import TrainStep
from common.utils import runtime
from common.utils.backend import Tensor, ms
from common.utils.errors import UserError
from common.utils.wording import counted

# Files that a run writes into the current folder.
METRICS, CURVES, ANIMATION = "metrics.csv", "curves.png", "emissions"  # .gif, .png, .npz
FIGURES = [
    Path(METRICS),
    Path(CURVES),
    *(Path(f"{ANIMATION}.{end}") for end in ("gif", "png", "npz")),
]


def train(
    recipe: Recipe,
    config: Any,
    *,
    device: str | None = None,
    resume: bool = False,
    start_from: str | Path = "",
    log: logging.Logger | None = None,
    rank: int = 0,
    ranks: int = 1,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train a model in the current folder, and say where and why the run ended.

    Args:
        recipe: The model to train.
        config: Its training configuration, an instance of `recipe.train_config`.
        device: Device name as `common.utils.runtime.set_device` returned it; None: the best device
            of this machine, which is then set.
        resume: Go on exactly where the run in `CheckpointConfig.ckpt_path` stopped. `config` must
            be that run's (`resumed_config`), but for the keys that may change.
        start_from: Checkpoint whose weights a new run begins with; "" for fresh weights.
        log: Gets the lines that describe the run; None: the logger `common.training`.
        rank: Number of this process in a distributed run.
        ranks: Number of processes of the run.
        callbacks: Hooks of the caller, called after the run's own.

    Returns:
        The reason why the run ended (all epochs, patience, a signal, divergence, a failure of
        another rank), and its progress. Whatever the reason, the checkpoint `last` is written, but
        after divergence: then `last` stays the one before it.

    Raises:
        UserError: The run cannot start, or data or a file fail in the middle of it. In the latter
            case `last` is written first, if it can be.
    """
    try:
        trainer = Trainer(
            recipe,
            config,
            device=device or runtime.set_device(),
            resume=resume,
            start_from=str(start_from),
            log=log or logging.getLogger("common.training"),
            group=ProcessGroup(rank, ranks, Heartbeat()),
            callbacks=callbacks,
        )
    except RemoteRankError as error:  # while it was set up
        stop = Stop(StopReason.REMOTE_FAILURE, message=str(error))
        return TrainingResult(stop, Progress(), _keeper(config).last)
    return trainer.fit()


def resumed_config(recipe: Recipe, config: Any) -> Any:
    """Read the configuration of the run that `resume` is to go on with.

    Args:
        recipe: The model.
        config: A configuration whose `CheckpointConfig` says where the run's checkpoints are.

    Returns:
        The configuration in the run's checkpoint `last`.

    Raises:
        UserError: There is no such checkpoint, or no training run of this project has written it.
    """
    keeper = _keeper(config)
    if not keeper.last.is_file():
        raise UserError(
            f"--resume: no checkpoint {keeper.last}; start without --resume, or name the folder "
            "by CheckpointConfig.ckpt_path"
        )
    checkpoint = checkpoints.load(keeper.last)
    if checkpoint.metadata is None or "progress" not in checkpoint.metadata:
        raise UserError(f"--resume: {keeper.last} was not written by a training run of this kind")
    return described_config(recipe, checkpoint)


class Trainer:
    """One training run: the constructor sets it up, `fit` runs it.

    Attributes:
        speech_model: Network, tokenizer and featurizer.
        dataset: The utterances that are trained on.
        validation: The validation set; None without one.
        epoch_plan: The batches of each epoch.
        step: One optimizer step.
        progress: Where the run stands.
        callbacks: What accompanies the run, in the order in which it is called.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: Any,
        *,
        device: str,
        resume: bool,
        start_from: str,
        log: logging.Logger,
        group: ProcessGroup,
        callbacks: Sequence[Callback] = (),
    ):
        """See `train`. Raises UserError for whatever keeps the run from starting."""
        self.config, self.log, self.group, self.resume = config, log, group, resume
        self.training = config.TrainingConfig
        self.stop_request = StopRequest(log.info)
        with group.failure_propagation():
            # ---- data
            self.keeper = _keeper(config)
            tokenizer = recipe.load_tokenizer(config)
            ms.set_seed(self.training.seed)
            self.speech_model = SpeechModel.create(recipe, config, tokenizer, device)
            self.dataset = select_training_examples(
                self.speech_model, open_split(self.speech_model, "train"), log
            )
            has_validation = bool(config.DataConfig.val_manifest)
            self.validation = open_split(self.speech_model, "val") if has_validation else None
            self.augmentation = Augmentation(config.DataConfig.AugmentationConfig)
            self.augmentation.check(self.dataset.store)
            if group.rank == 0:
                self.keeper.check_writable()
            self.epoch_plan = EpochPlan(
                self.speech_model, self.dataset, group.rank, group.count, self.augmentation.slowest
            )
            self.rates = make_schedule(
                config.OptimConfig, self.training.epochs, self.epoch_plan.steps_per_epoch
            )

            # ---- network and optimizer
            if start_from:
                _fine_tune(self.speech_model, start_from, log)
            self.step = TrainStep(self.speech_model, self._forecast_memory(), group)
            self.decoder = self.speech_model.decoder(config.LMConfig)

            # ---- resuming: everything from `last`, or nothing
            self.progress, identity = Progress(), identity_of(self.dataset, group.count)
            if resume:
                self.progress = _resume(
                    self.speech_model, self.step, self.keeper, self.epoch_plan, identity, log
                )
            checked = {}
            if self.validation is not None:
                checked = identity_of(self.validation, group.count)
            _same_everywhere(group, self.speech_model, identity, checked)

            # ---- what accompanies the run
            memory_line = self._check_memory()
            if resume:
                self._exchange_figures()
            self.animation = EmissionAnimation(
                ANIMATION,
                self.validation,
                self.speech_model.featurizer,
                tokenizer,
                self.progress.step,
            )
            self.callbacks = [*self._make_callbacks(identity, memory_line), *callbacks]

    def fit(self) -> TrainingResult:
        """Train until the last epoch is done or something stops the run.

        Returns:
            Why the run ended, and where: see `train`.

        Raises:
            UserError: Data or a file of this process failed; the checkpoint is written first.
        """
        try:
            with self.group.failure_propagation():
                self._move_earlier_run_aside()
                for line in self._device_lines():
                    self.log.info(line)
                for callback in self.callbacks:
                    callback.on_run_start(self.progress)
                with self.stop_request, self._saved_on_failure():
                    stop = self._evaluate_and_check()  # where the run was stopped before it
                    while stop is None:
                        stop = self._train_epoch(self.progress.epoch)
                result = self._result(stop)
                for callback in self.callbacks:
                    callback.on_run_end(result)
                return result
        except RemoteRankError as error:
            return self._result(Stop(StopReason.REMOTE_FAILURE, message=str(error)))

    # ---- setting up

    def _forecast_memory(self) -> MemoryEstimate:
        """Return the tightest of all hosts', which a checkpoint names to go on with."""
        processes = self.group.local_world_size()
        forecast = forecast_memory(self.speech_model, processes, self.epoch_plan.shapes)
        limits = self.group.all_gather(forecast.limit)[:, 0]
        return replace(forecast, limit=float(limits.min()))

    def _device_lines(self) -> list[str]:
        """Say how the device runs the network, and what it compiles before that."""
        lines = runtime.device_lines(self.speech_model.device)
        if lines and (shapes := self.epoch_plan.shapes):
            count = counted(len(shapes), "graph")
            lines.append(
                f"{count} of static shapes to compile, each at its first step (minutes, or much "
                "longer for whole graphs, jit level O2); MS_COMPILER_CACHE_ENABLE=1 keeps them"
            )
        return lines

    def _check_memory(self) -> str:
        """Refuse a run whose longest utterance needs too much; return a line for the user."""
        longest = int(self.dataset.frames.max() / self.augmentation.slowest)
        self.step.forecast.check(longest)
        return self.step.forecast.line(self.config.DataConfig.batch_size, longest)

    def _make_callbacks(self, identity: dict[str, Any], memory_line: str) -> list[Callback]:
        """Build the run's own callbacks.

        Metrics come before the checkpoint, since resuming drops a row too many; the console comes
        last, when all is written.
        """
        log, model = self.log, self.speech_model
        callbacks: list[Callback] = [HeartbeatSender(self.group.heartbeat, self.keeper.last)]
        if self.group.rank == 0:
            history = History(METRICS, self.progress.step)
            title = f"{model.recipe.name}: {counted(len(self.dataset), 'utterance')}"
            callbacks += [
                MetricsWriter(
                    history,
                    Path(CURVES),
                    title,
                    log,
                    self.keeper.last,
                    self.epoch_plan.steps_per_epoch,
                ),
                EmissionPlots(self.animation, log),
                CheckpointWriter(self.keeper, model, self.step, self.epoch_plan, identity, log),
            ]
        console = ConsoleProgress(
            log, model, self.epoch_plan, self.validation, memory_line, self.group.rank
        )
        return [*callbacks, console]

    def _exchange_figures(self) -> None:
        """Have the figures of this run in the current folder, and not those of another one."""
        if self.group.rank == 0:
            figures.make_room(FIGURES, Path(CURVES), self.keeper, self.log)
            figures.take_back(FIGURES, self.keeper)
        self.group.all_gather()  # no rank reads before that

    def _move_earlier_run_aside(self) -> None:
        """Make room for a new run, which nothing has refused, in the folder of an earlier one."""
        if self.group.rank == 0 and not self.resume:
            figures.make_room(FIGURES, Path(CURVES), self.keeper, self.log)
            files = figures.stored(FIGURES, self.keeper)
            files += [file for callback in self.callbacks for file in callback.files]
            if folder := self.keeper.set_aside(*files):
                self.log.info(
                    f"a new run: the earlier one's checkpoints and figures are now in {folder}"
                )
        self.group.all_gather()  # no rank writes before that

    # ---- one epoch

    def _train_epoch(self, epoch: int) -> Stop | None:
        """Train to the end of an epoch, from where the run stands in it."""
        plan = self.epoch_plan.plan(epoch)[self.progress.batch :]
        for callback in self.callbacks:
            callback.on_epoch_start(epoch, len(plan))
        loaded = batches(
            self.dataset,
            plan,
            self.speech_model.featurizer,
            self.augmentation,
            seed=self.training.seed,
            epoch=epoch,
            shapes=self.epoch_plan.shapes,
            pad_align=self.config.DataConfig.pad_align,
            output_frames=self.speech_model.output_frames,
            workers=self.config.DataConfig.workers,
        )
        try:
            with closing(loaded):
                for group, waited in _grouped(loaded, self.training.accumulation_step):
                    stop = self._train_step(epoch, group, waited) or self._evaluate_and_check()
                    if stop is not None:
                        return stop
        finally:
            for callback in self.callbacks:
                callback.on_epoch_end()
        return None

    def _train_step(self, epoch: int, group: list[Batch], waited: float) -> Stop | None:
        """One optimizer step over some batches, for which the run waited so many seconds."""
        progress = self.progress
        total = self.epoch_plan.counting(epoch, progress.batch, len(group))
        started = time.perf_counter()
        result = self.step(group, float(self.rates[progress.step]), progress.step, total)
        elapsed = time.perf_counter() - started
        if result.diverged:
            return self._diverged(result.diverged)
        progress.advance(group, result, elapsed, waited, len(self.epoch_plan))
        for callback in self.callbacks:
            callback.on_step_end(progress, epoch, result, len(group))
        if progress.skipped_in_a_row < max(self.training.max_nonfinite, 1):
            return None
        return self._diverged(
            f"{progress.skipped_in_a_row} steps in a row were not finite, up to step "
            f"{progress.step} (utterances {', '.join(result.blamed[:5])}); the last good "
            f"checkpoint is {self.keeper.last}; lower OptimConfig.learning_rate or "
            "TrainingConfig.clip_norm"
        )

    def _diverged(self, message: str) -> Stop:
        self.group.all_gather()  # all ranks know it, and leave together
        return Stop(StopReason.DIVERGED, message=message)

    # ---- between two steps

    def _evaluate_and_check(self) -> Stop | None:
        """Evaluate if it is time to, and return whether the run ends here.

        An evaluation in which a signal comes is discarded: it is still due then, and runs first in
        a resumed run.
        """
        self.stop_request.restore_sigint()  # a graph has just run
        progress, training = self.progress, self.training
        if progress.due(training):
            self._evaluate()
        if (number := self._signal_of_any_rank()) is not None:
            for callback in self.callbacks:
                callback.on_early_end(progress)
            self.group.all_gather()  # no rank leaves before rank 0 has written
            due = ", before its evaluation" if progress.due(training) else ""
            self.log.info(f"stopped at step {progress.step}{due}; go on with --resume")
            return Stop(StopReason.INTERRUPTED, number)
        if progress.out_of_patience(training):
            return Stop(StopReason.OUT_OF_PATIENCE)
        return Stop(StopReason.FINISHED) if progress.epoch >= training.epochs else None

    def _signal_of_any_rank(self) -> signal.Signals | None:
        """Return the signal that asks this rank or another one to stop."""
        number = int(self.group.all_gather(self.stop_request.signal or 0)[:, 0].max())
        return signal.Signals(number) if number else None

    def _evaluate(self) -> None:
        """Measure the error rates, and let callbacks write them unless a signal came."""
        evaluation = None
        if self.validation is not None:
            evaluation = self._validate(self.validation)
            if evaluation is None:
                return
        progress = self.progress
        is_best = evaluation is not None and progress.update_best(evaluation)
        metrics = progress.metrics(self.epoch_plan, self.rates, evaluation)
        progress.reset_window()
        seconds_left = progress.seconds / progress.step * (len(self.rates) - progress.step)
        report = EvaluationReport(progress, metrics, evaluation, is_best, seconds_left)
        for callback in self.callbacks:
            callback.on_evaluation_end(report)

    def _validate(self, validation: Dataset) -> Evaluation | None:
        """Measure error rates over the validation set; None where a signal came in between."""
        data, group = self.config.DataConfig, self.group
        limit = self.step.forecast.limit
        evaluation = None
        try:
            with self.step.result_in_place():
                evaluation = evaluate(
                    self.speech_model,
                    self.decoder,
                    validation,
                    data.batch_size,
                    data.workers,
                    "evaluating" if group.rank == 0 else None,
                    watch=self._watch,
                    part=RankShard(group.rank, group.count, self.animation.index, limit),
                )
        except _EvaluationInterrupted:
            pass
        doubts = self.decoder.warnings()
        for line in doubts if self.progress.spells else ():  # no language model knows babble
            self.log.warning(line)
        # A rank that was interrupted has no counts to give.
        counts = evaluation.counts() if evaluation is not None else []
        interrupted, *totals = group.all_reduce_sum(evaluation is None, *counts)
        return None if evaluation is None or interrupted else evaluation.of_all(totals)

    def _watch(self, prediction: Prediction) -> None:
        self.stop_request.restore_sigint()  # a graph has just run
        if self.stop_request.signal is not None:
            raise _EvaluationInterrupted
        for callback in self.callbacks:
            callback.on_prediction(self.progress, prediction)

    # ---- the end

    @contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """Write a checkpoint before a UserError leaves, so that no finished step is lost."""
        try:
            yield
        except UserError:
            if self.progress.step:
                try:
                    for callback in self.callbacks:
                        callback.on_early_end(self.progress)
                except UserError as error:
                    self.log.warning(str(error))
                else:
                    self.log.info(f"stopped at step {self.progress.step}; go on with --resume")
            raise

    def _result(self, stop: Stop) -> TrainingResult:
        files = [file.resolve() for callback in self.callbacks for file in callback.files]
        return TrainingResult(
            stop,
            self.progress,
            self.keeper.last,
            None if self.progress.best_wer is None else self.keeper.best,
            tuple(file for file in files if file.is_file()),
        )


class _EvaluationInterrupted(Exception):
    """Leaves `evaluate` where a signal came; never leaves `Trainer._validate`."""


def _grouped(loaded: Iterator[Batch], size: int) -> Iterator[tuple[list[Batch], float]]:
    """Yield groups of `size` batches (the last may be smaller) and the seconds waited for each."""
    group: list[Batch] = []
    waited = 0.0
    while True:
        started = time.perf_counter()
        batch = next(loaded, None)
        waited += time.perf_counter() - started
        if batch is not None:
            group.append(batch)
        if group and (batch is None or len(group) == size):
            yield group, waited
            group, waited = [], 0.0
        if batch is None:
            return


def _keeper(config: Any) -> CheckpointKeeper:
    group = config.CheckpointConfig
    return CheckpointKeeper(group.ckpt_path, group.ckpt_file_name_prefix, group.keep_checkpoint_max)


# ---- what all ranks must share


def _same_everywhere(
    group: ProcessGroup, speech_model: SpeechModel, identity: dict, validation: dict
) -> None:
    """Refuse a run whose ranks have different configurations, data or weights.

    The hosts of one job have files of their own; with different ones the ranks would compute
    different things, or wait for each other for ever.
    """
    if group.count == 1:
        return
    of_a_host = configs.host_keys(speech_model.config)
    config = [
        entry for entry in configs.leaves(speech_model.config).items() if entry[0] not in of_a_host
    ]
    weights = 0
    for parameter in speech_model.network.get_parameters():
        weights = zlib.crc32(np.ascontiguousarray(parameter.asnumpy()), weights)
    known = {
        "configuration": zlib.crc32(repr(config).encode()),
        "training data": zlib.crc32(repr(identity).encode()),
        "validation data": zlib.crc32(repr(validation).encode()),
        "vocabulary": zlib.crc32(repr(stored_tokenizer(speech_model.tokenizer)).encode()),
        "weights to start from": weights,
    }
    gathered = group.all_gather(*known.values())
    for column, what in enumerate(known):
        if others := np.flatnonzero(gathered[:, column] != gathered[0, column]).tolist():
            raise UserError(
                f"rank {others[0]}, and in all {len(others)} of {group.count} ranks, have another "
                f"{what} than rank 0: give every host of the job the same files and options"
            )


# ---- starting from other weights


def _fine_tune(speech_model: SpeechModel, path: str, log: logging.Logger) -> None:
    """Take the weights of a checkpoint; the output layer starts anew with other labels."""
    recipe = speech_model.recipe
    checkpoint = checkpoints.load(path)
    averaged = checkpoints.take_averages(checkpoint)
    _warn_of_features(speech_model, checkpoint, log)
    new_head: str | None = recipe.head
    stored = stored_tokenizer(speech_model.tokenizer)
    metadata = checkpoint.metadata or {}
    if {key: metadata.get(key) for key in ("labels", *stored)} == stored:
        new_head = None
    elif checkpoint.metadata:  # the same number of other labels would fit, and mean nothing
        checkpoint.parameters = {
            name: value
            for name, value in checkpoint.parameters.items()
            if not recipe.rename_parameter(name).startswith(recipe.head)
        }
    report = checkpoints.load_into(
        speech_model.network, checkpoint, recipe.rename_parameter, new_head
    )
    of = ", the moving average of its weights" if averaged else ""
    log.info(f"start from {path}{of}: {report}")
    if any(name.startswith(recipe.head) for name in report.missing + report.reshaped):
        log.info(f"another vocabulary: the output layer {recipe.head} starts anew")


def _warn_of_features(
    speech_model: SpeechModel, checkpoint: checkpoints.Checkpoint, log: logging.Logger
) -> None:
    """Name each feature setting that differs from the checkpoint's: it may still help."""
    if checkpoint.metadata is None:
        return
    before = speech_model.recipe.build_featurizer(
        described_config(speech_model.recipe, checkpoint).DataConfig
    )
    now = asdict(speech_model.featurizer.config)
    for key, value in asdict(before.config).items():
        if now[key] != value:
            log.warning(
                f"{checkpoint.path} was trained with {key}={value}, this run has {now[key]}"
            )


# ---- resuming


def _resume(
    speech_model: SpeechModel,
    step: TrainStep,
    keeper: CheckpointKeeper,
    epoch_plan: EpochPlan,
    identity: dict,
    log: logging.Logger,
) -> Progress:
    """Take over weights, optimizer and progress of the checkpoint `last`.

    Raises UserError where the run would not go on exactly.
    """
    checkpoint = checkpoints.load(keeper.last)
    before = configs.leaves(described_config(speech_model.recipe, checkpoint))
    resumable = configs.resumable_keys(speech_model.config)
    for key, value in configs.leaves(speech_model.config).items():
        if key not in resumable and before[key] != value:
            raise UserError(
                f"--resume: {key} is {value!r}, and the run in {keeper.last} has {before[key]!r}; "
                "resume without changing it, or begin anew from --pre_trained_model_path"
            )
    epochs, schedule = "TrainingConfig.epochs", speech_model.config.OptimConfig.schedule
    if schedule == "cosine" and before[epochs] != speech_model.config.TrainingConfig.epochs:
        raise UserError(
            f"--resume: {epochs} is {speech_model.config.TrainingConfig.epochs}, and the cosine "
            f"schedule of the run in {keeper.last} ends after {before[epochs]}; resume without "
            "changing it, or begin anew from --pre_trained_model_path"
        )
    metadata = checkpoint.metadata
    if metadata is None:
        raise UserError(f"--resume: {keeper.last} was not written by a training run of this kind")
    if metadata["data"] != identity:
        raise UserError(
            f"--resume: the run in {keeper.last} trains on {metadata['data']}, "
            f"found {identity}; go back to the data it was started with"
        )
    checkpoints.load_into(speech_model.network, checkpoint, speech_model.recipe.rename_parameter)
    for name, parameter in step.state().items():
        if name not in checkpoint.parameters:
            raise UserError(f"--resume: {keeper.last} lacks the optimizer's {name}")
        parameter.set_data(Tensor(checkpoint.parameters[name], parameter.dtype))
    if state := metadata.get("loss_scale"):
        step.scaling.restore(state)
    # The micro-batches of the run so far, whatever this machine's memory: they enter the
    # statistics of batch normalisation.
    limit = metadata["memory_limit"]
    there = device_memory(speech_model.device)
    if there < limit < math.inf:
        where = "machine" if speech_model.device == "CPU" else "card"
        log.warning(
            f"the run was started with {limit / GIB:.1f} GiB allowed, more than this {where} has "
            f"({there / GIB:.1f} GiB); it may be ended for lack of memory"
        )
    step.forecast = replace(step.forecast, limit=limit)
    shapes = list(map(tuple, metadata.get("shapes") or ()))
    if epoch_plan.shapes and shapes != epoch_plan.shapes:
        log.warning(
            "the run was begun by another version, which had other static shapes: it goes on, but "
            "not exactly as it would have gone on there"
        )
    return Progress(**metadata["progress"])
