"""Training: `fit` reads from top to bottom, from the data to the last epoch.

What a step does is in `common.steps`, the order of the batches in `common.batching`. Everything
random is drawn from (seed, epoch or step, utterance), so the place in the plan, the weights and the
optimizer's state are all that a resumed run needs to go on exactly.
"""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from common import checkpoint as checkpoints
from common import config as configs
from common import runtime
from common.augment import Augmentation
from common.batching import PlannedBatch, padded_share, plan_epoch, static_shapes
from common.checkpoint import CheckpointKeeper
from common.conversion import open_split
from common.dataset import Batch, batches
from common.decoding import make_decoder
from common.errors import UserError
from common.evaluation import Evaluation, evaluate
from common.history import Figures, History
from common.memory import GIB, Forecast
from common.recipe import Recipe, labels_file
from common.recogniser import Forward, Recogniser, described
from common.schedules import make_schedule
from common.sources import Source
from common.steps import StepResult, TrainStep
from common.text import Vocabulary

METRICS, CURVES = "metrics.csv", "curves.png"

# Keys that may change between a run and its resumption: they do not touch what is computed.
RESUMABLE = {
    "TrainingConfig.epochs", "TrainingConfig.memory_gib", "TrainingConfig.eval_every",
    "TrainingConfig.patience", "TrainingConfig.max_nonfinite", "TrainingConfig.hypotheses",
    "DataConfig.train_manifest", "DataConfig.val_manifest", "DataConfig.test_manifest",
    "DataConfig.labels_path", "DataConfig.mindrecord_format", "DataConfig.workers",
    "CheckpointConfig.ckpt_file_name_prefix", "CheckpointConfig.ckpt_path",
    "CheckpointConfig.keep_checkpoint_max", "LMConfig.decoder_type",
}  # fmt: skip


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
    # Since the last evaluation:
    loss_sum: float = 0.0
    loss_steps: int = 0
    speech: float = 0.0  # seconds
    busy: float = 0.0  # seconds
    waiting: float = 0.0  # seconds, for data

    def reset_window(self) -> None:
        self.loss_sum, self.loss_steps, self.speech, self.busy, self.waiting = 0.0, 0, 0.0, 0.0, 0.0


@dataclass(frozen=True)
class Job:
    """What an entry point asks for beside the configuration."""

    recipe: Recipe
    config: Any
    device: str
    log: logging.Logger
    rank: int = 0
    ranks: int = 1
    resume: bool = False
    start_from: str = ""  # checkpoint to fine-tune from


def resumed_config(recipe: Recipe, config: Any) -> Any:
    """The configuration in the `last` checkpoint of a run, for `--resume` to start from."""
    keeper = _keeper(config)
    if not keeper.last.is_file():
        raise UserError(
            f"--resume: no checkpoint {keeper.last}; start without --resume, or name the folder "
            "by CheckpointConfig.ckpt_path"
        )
    found = checkpoints.load(keeper.last)
    if found.metadata is None or "progress" not in found.metadata:
        raise UserError(f"--resume: {keeper.last} was not written by a training run of this kind")
    return described(recipe, found)[0]


def fit(job: Job) -> Progress:
    """Trains, and returns where the run ended. Raises KeyboardInterrupt after a stopping signal,
    when the checkpoint is written."""
    config, log = job.config, job.log
    training = config.TrainingConfig
    keeper = _keeper(config)
    if job.rank == 0:
        keeper.check_writable()

    # ---- data
    vocabulary = Vocabulary.from_file(labels_file(job.recipe, config))
    ms.set_seed(training.seed)
    recogniser = Recogniser.create(job.recipe, config, vocabulary, job.device)
    source = _trainable(recogniser, open_split(recogniser, "train"), log)
    validation = open_split(recogniser, "val") if config.DataConfig.val_manifest else None
    augmentation = Augmentation.from_config(config.DataConfig.AugmentationConfig)
    planner = Planner(recogniser, source, job)
    rates = make_schedule(config.OptimConfig, training.epochs, planner.steps_per_epoch)

    # ---- network and optimizer
    forecast = forecast_memory(recogniser)
    if job.start_from:
        _fine_tune(recogniser, job.start_from, log)
    step = TrainStep(recogniser, forecast, job.ranks)
    forward, decoder = Forward(recogniser), make_decoder(config.LMConfig, vocabulary)

    # ---- resuming: everything from `last`, or nothing
    progress, identity = Progress(), _identity(source, job.ranks)
    if job.resume:
        progress = _resume(recogniser, step, keeper, identity)
    history = History(METRICS, progress.step)
    _announce(job, recogniser, source, validation, planner, forecast, progress)

    def save(best: bool) -> None:
        if job.rank != 0:
            return
        metadata = recogniser.metadata(progress=asdict(progress), data=identity)
        weights = dict(recogniser.network.parameters_dict().items())
        path = keeper.save_last(
            {**weights, **step.update.state()}, metadata, progress.epoch, progress.step
        )
        log.debug("checkpoint %s", path)
        if best:
            metadata["scores"] = {"wer": progress.best_wer, "cer": progress.best_cer}
            keeper.save_best(weights, metadata)

    def measure() -> bool:
        """Evaluates, notes the figures, saves; returns whether to stop early."""
        found = None
        if validation is not None:
            found = evaluate(
                recogniser, forward, validation, decoder,
                config.DataConfig.batch_size, config.DataConfig.workers,
                progress="evaluating" if job.rank == 0 else None,
            )  # fmt: skip
        better = found is not None and _better(progress, found)
        figures = _figures(progress, planner, rates, found)
        progress.reset_window()
        if job.rank == 0:  # before the checkpoint: a row too many is dropped when resuming
            history.add(figures)
        save(best=better)
        if job.rank == 0:
            left = progress.seconds / progress.step * (len(rates) - progress.step)
            _show(log, figures, left, found, better, training.hypotheses)
            history.draw(CURVES, f"{recogniser.recipe.name}: {len(source)} utterances")
        return 0 < training.patience <= progress.stale

    # ---- epochs
    with _Stopping() as stopping:
        for epoch in range(progress.epoch, training.epochs):
            if 0 < training.patience <= progress.stale:
                log.info(
                    "stopped early: %d evaluations without a better WER than %.2f",
                    progress.stale, progress.best_wer,
                )  # fmt: skip
                break
            plan = planner.plan(epoch)[progress.batch :]
            made = batches(
                source, plan, recogniser.featurizer, augmentation,
                seed=training.seed, epoch=epoch, static=recogniser.static,
                output_frames=recogniser.output_frames, workers=config.DataConfig.workers,
            )  # fmt: skip
            bar = tqdm(
                total=len(plan), desc=f"epoch {epoch + 1}/{training.epochs}", unit="batch",
                disable=None if job.rank == 0 else True, leave=False,
            )  # fmt: skip
            try:
                for group, waited in _grouped(made, training.accumulation_step):
                    counting = planner.counting(epoch, progress.batch, len(group))
                    started = time.perf_counter()
                    rate = float(rates[progress.step])
                    result = step(group, rate, progress.step, counting)
                    elapsed = time.perf_counter() - started
                    _advance(progress, group, result, elapsed, waited, len(planner))
                    _report_step(log, progress, epoch, planner, result, bar, len(group))
                    if progress.skipped_in_a_row >= max(training.max_nonfinite, 1):
                        raise UserError(
                            f"{progress.skipped_in_a_row} steps in a row were not finite, up to "
                            f"step {progress.step} (utterances {', '.join(result.blamed[:5])}); "
                            f"the last good checkpoint is {keeper.last}; lower "
                            "OptimConfig.learning_rate or TrainingConfig.clip_norm"
                        )
                    if _due(progress, training) and measure():
                        break
                    if stopping.asked:
                        save(best=False)
                        log.info("stopped at step %d; go on with --resume", progress.step)
                        raise KeyboardInterrupt
            finally:
                bar.close()
                made.close()
    if job.rank == 0:
        _close(log, progress, keeper)
    return progress


class Planner:
    """The plans of a run's epochs, for this rank and, where it matters, for all."""

    def __init__(self, recogniser: Recogniser, source: Source, job: Job):
        data, training = recogniser.config.DataConfig, recogniser.config.TrainingConfig
        if training.accumulation_step < 1:
            raise UserError(
                f"TrainingConfig.accumulation_step={training.accumulation_step}: expected at least 1"
            )
        self.source, self.job = source, job
        self.accumulation = training.accumulation_step
        self.arguments = {
            "batch_size": data.batch_size,
            "seed": training.seed,
            "world_size": job.ranks,
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
            self.source.frames, self.source.label_counts, epoch=epoch,
            rank=self.job.rank if rank is None else rank, **self.arguments,
        )  # fmt: skip

    def counting(self, epoch: int, first: int, count: int) -> int:
        """Utterances that count, over all ranks, in `count` batches from batch `first` on."""
        if self._totals is None or self._totals[0] != epoch:
            valid = [
                [planned.valid for planned in self.plan(epoch, rank)]
                for rank in range(self.job.ranks)
            ]
            self._totals = epoch, np.sum(valid, axis=0)
        return int(self._totals[1][first : first + count].sum())


class _Stopping:
    """Turns the first SIGINT or SIGTERM into a request; the second acts at once."""

    def __enter__(self) -> _Stopping:
        self.asked = False
        self.previous = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: nobody can press Ctrl-C here
                break
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(number, self.previous[number])

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def forecast_memory(recogniser: Recogniser) -> Forecast:
    """Memory of training this network, and what it may take."""
    training = recogniser.config.TrainingConfig
    limit = training.memory_gib * GIB or 0.8 * runtime.machine_memory()
    per_frame = recogniser.recipe.activation_bytes(
        recogniser.config.ModelConfig, recogniser.featurizer.dimension
    )
    return Forecast(recogniser.parameters(), per_frame, limit)


def _keeper(config: Any) -> CheckpointKeeper:
    group = config.CheckpointConfig
    return CheckpointKeeper(
        group.ckpt_path, group.ckpt_file_name_prefix, group.keep_checkpoint_max
    )


def _trainable(recogniser: Recogniser, source: Source, log: logging.Logger) -> Source:
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
            log.info("left out: %d utterances %s", np.count_nonzero(~good), why)
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


def _fine_tune(recogniser: Recogniser, path: str, log: logging.Logger) -> None:
    found = checkpoints.load(path)
    new_head = recogniser.recipe.head
    if found.metadata and tuple(found.metadata["labels"]) == recogniser.vocabulary.labels:
        new_head = None
    elif found.metadata:  # the same number of other labels would fit, and mean nothing
        found.parameters = {
            name: value
            for name, value in found.parameters.items()
            if recogniser.recipe.head not in name
        }
    report = checkpoints.load_into(
        recogniser.network, found, recogniser.recipe.rename_parameter, new_head
    )
    log.info("start from %s: %s", path, report)
    if any(name.startswith(recogniser.recipe.head) for name in report.missing + report.reshaped):
        log.info("another vocabulary: the output layer %s starts anew", recogniser.recipe.head)


def _identity(source: Source, ranks: int) -> dict[str, Any]:
    """What of the data must be the same for a run to go on exactly."""
    digest = hashlib.sha256()
    for entry in source.entries:
        digest.update(f"{entry.id}\n{entry.text}\n{entry.frames}\n".encode())
    return {"utterances": len(source), "digest": digest.hexdigest()[:16], "ranks": ranks}


def _resume(
    recogniser: Recogniser, step: TrainStep, keeper: CheckpointKeeper, identity: dict
) -> Progress:
    found = checkpoints.load(keeper.last)
    before = configs.leaves(described(recogniser.recipe, found)[0])
    for key, value in configs.leaves(recogniser.config).items():
        if key not in RESUMABLE and before[key] != value:
            raise UserError(
                f"--resume: {key} is {value!r}, and the run in {keeper.last} has {before[key]!r}; "
                "resume without changing it, or begin anew from --pre_trained_model_path"
            )
    if found.metadata["data"] != identity:
        raise UserError(
            f"--resume: the run in {keeper.last} trains on {found.metadata['data']}, "
            f"found {identity}; go back to the data it was started with"
        )
    checkpoints.load_into(recogniser.network, found, recogniser.recipe.rename_parameter)
    for name, parameter in step.update.state().items():
        if name not in found.parameters:
            raise UserError(f"--resume: {keeper.last} lacks the optimizer's {name}")
        parameter.set_data(Tensor(found.parameters[name], parameter.dtype))
    return Progress(**found.metadata["progress"])


def _grouped(made: Iterator[Batch], size: int) -> Iterator[tuple[list[Batch], float]]:
    """Batches in groups of `size` (the last may be smaller), with the seconds waited for them."""
    group, waited = [], 0.0
    while True:
        started = time.perf_counter()
        batch = next(made, None)
        waited += time.perf_counter() - started
        if batch is not None:
            group.append(batch)
        if group and (batch is None or len(group) == size):
            yield group, waited
            group, waited = [], 0.0
        if batch is None:
            return


def _advance(
    progress: Progress, group: Sequence[Batch], result: StepResult, elapsed: float, waited: float,
    epoch_batches: int,
) -> None:  # fmt: skip
    progress.step += 1
    progress.batch += len(group)
    if progress.batch == epoch_batches:
        progress.epoch, progress.batch = progress.epoch + 1, 0
    progress.seconds += elapsed + waited
    progress.busy += elapsed
    progress.waiting += waited
    progress.speech += sum(batch.seconds for batch in group)
    if result.applied:
        progress.loss_sum += result.loss
        progress.loss_steps += 1
        progress.skipped_in_a_row = 0
    else:
        progress.skipped += 1
        progress.skipped_in_a_row += 1


def _due(progress: Progress, training: Any) -> bool:
    """Whether to evaluate now: every so many steps or after each epoch, and at the very end."""
    if progress.batch == 0 and (not training.eval_every or progress.epoch == training.epochs):
        return True
    return training.eval_every > 0 and progress.step % training.eval_every == 0


def _report_step(
    log: logging.Logger, progress: Progress, epoch: int, planner: Planner, result: StepResult,
    bar: tqdm, count: int,
) -> None:  # fmt: skip
    number = progress.step - epoch * planner.steps_per_epoch
    log.debug("epoch: %d step: %d, loss is %.6g", epoch + 1, number, result.loss)
    if not result.applied:
        log.warning(
            "epoch: %d step: %d skipped, not finite (loss %g, gradient norm %g); utterances: %s",
            epoch + 1, number, result.loss, result.norm, ", ".join(result.blamed),
        )  # fmt: skip
    spent = max(progress.busy + progress.waiting, 1e-9)
    bar.set_postfix_str(
        f"loss {result.loss:.2f}, {progress.speech / spent:.1f} s speech/s, "
        f"waiting {100 * progress.waiting / spent:.0f}%"
    )
    bar.update(count)


def _better(progress: Progress, found: Evaluation) -> bool:
    """Notes the best WER so far; CER decides between equal ones."""
    best = (
        math.inf if progress.best_wer is None else progress.best_wer,
        math.inf if progress.best_cer is None else progress.best_cer,
    )
    if (found.wer, found.cer) < best:
        progress.best_wer, progress.best_cer, progress.stale = found.wer, found.cer, 0
        return True
    progress.stale += 1
    return False


def _figures(
    progress: Progress, planner: Planner, rates: np.ndarray, found: Evaluation | None
) -> Figures:
    spent = max(progress.busy + progress.waiting, 1e-9)
    return Figures(
        epoch=round(progress.epoch + progress.batch / len(planner), 4),
        step=progress.step,
        minutes=round(progress.seconds / 60, 3),
        learning_rate=float(rates[progress.step - 1]),
        train_loss=progress.loss_sum / max(progress.loss_steps, 1),
        val_wer=found.wer if found else None,
        val_cer=found.cer if found else None,
        blank_share=100 * found.blank_share if found else None,
        speech_per_second=round(progress.speech / spent, 2),
        data_wait=round(100 * progress.waiting / spent, 2),
        skipped=progress.skipped,
    )


def _announce(
    job: Job, recogniser: Recogniser, source: Source, validation: Source | None,
    planner: Planner, forecast: Forecast, progress: Progress,
) -> None:  # fmt: skip
    if job.rank != 0:
        return
    log, data = job.log, recogniser.config.DataConfig
    features = recogniser.featurizer.config
    log.info(
        "%s on %s: %.1f M parameters, %s of %d bins at %d Hz, %d labels",
        recogniser.recipe.name, recogniser.device, recogniser.parameters() / 1e6,
        features.kind, features.dimension, features.sample_rate, len(recogniser.vocabulary),
    )  # fmt: skip
    log.info(
        "training: %d utterances, %.2f hours, %d batches of %d an epoch%s, %.1f %% padding",
        len(source), source.durations.sum() / 3600, len(planner), data.batch_size,
        f" on each of {job.ranks} ranks" if job.ranks > 1 else "",
        100 * padded_share(planner.plan(1), source.frames),
    )  # fmt: skip
    if planner.shapes:
        log.info("static shapes (frames, labels): %s", planner.shapes)
    if validation is not None:
        log.info("validation: %d utterances", len(validation))
    longest = int(source.frames.max())
    forecast.check(longest)
    log.info(forecast.line(data.batch_size, longest))
    if progress.step:
        log.info("resumed at epoch %d, step %d", progress.epoch + 1, progress.step)


def _show(
    log: logging.Logger, figures: Figures, left: float, found: Evaluation | None, better: bool,
    count: int,
) -> None:  # fmt: skip
    line = (
        f"epoch {figures.epoch:g}: loss {figures.train_loss:.3f}, "
        f"{figures.minutes:.1f} min, {left / 60:.1f} left; {figures.speech_per_second:.1f} s of "
        f"speech per second, {figures.data_wait:.1f} % waiting for data"
    )
    if found is not None:
        line += (
            f"; validation WER {found.wer:.2f} CER {found.cer:.2f} "
            f"blanks {100 * found.blank_share:.0f} %{' (best)' if better else ''}"
        )
    log.info(line)
    if found is None or count < 1:
        return
    spread = np.linspace(0, len(found.utterances) - 1, count).astype(int)
    for utterance in [found.utterances[index] for index in np.unique(spread)]:
        log.info("  ref: %s", utterance.reference)
        log.info("  hyp: %s", utterance.hypothesis)


def _close(log: logging.Logger, progress: Progress, keeper: CheckpointKeeper) -> None:
    best = f"; best WER {progress.best_wer:.2f} in {keeper.best}" if progress.best_wer is not None else ""
    skipped = f"; {progress.skipped} steps were skipped" if progress.skipped else ""
    log.info(
        "trained %d epochs, %d steps, in %.1f minutes%s%s; last state in %s",
        progress.epoch, progress.step, progress.seconds / 60, best, skipped, keeper.last,
    )  # fmt: skip
    log.info("figures in %s, picture in %s", Path(METRICS).resolve(), Path(CURVES).resolve())
