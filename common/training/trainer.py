"""Training: `fit` reads from top to bottom, from the data to the last epoch.

What a step does is in `common.training.train_step`, the order of the batches in
`common.data.batch_sampler`. Everything random is drawn from (seed, epoch or step, utterance), so
the place in the plan, the weights and the optimizer's state are all that a resumed run needs to go
on exactly.
"""

from __future__ import annotations

import logging
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configs
from common.audio.augmentation import Augmentation
from common.data.loader import Batch, batches
from common.data.splits import open_split
from common.evaluation.evaluate import Prediction, RankShard, evaluate
from common.memory import GIB, forecast_memory
from common.model import checkpoint as checkpoints
from common.model.checkpoint import CheckpointKeeper
from common.model.recipe import Recipe
from common.model.speech_model import SpeechModel, described
from common.training.distributed import ProcessGroup
from common.training.emission_animation import EmissionAnimation
from common.training.epoch_plan import EpochPlan, identity_of, select_training_examples
from common.training.heartbeat import Heartbeat
from common.training.lr_schedules import make_schedule
from common.training.metrics_log import History
from common.training.progress import Progress, Reporter
from common.training.train_step import TrainStep
from common.utils import runtime
from common.utils.backend import Tensor, ms
from common.utils.errors import Diverged, UserError

METRICS, CURVES, FILM = "metrics.csv", "curves.png", "emissions"  # .gif, .png, .npz


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
    and UserError where something fails, here or on another rank, when the checkpoint is written."""
    heart = Heartbeat()
    ranks = ProcessGroup(job.rank, job.ranks, heart)
    with ranks.failure_propagation():
        progress = _fit(job, ranks, heart)
    heart.finished()
    return progress


def _fit(job: Job, ranks: ProcessGroup, heart: Heartbeat) -> Progress:
    config, log = job.config, job.log
    training = config.TrainingConfig
    keeper = _keeper(config)

    # ---- data
    vocabulary = job.recipe.load_tokenizer(config)
    ms.set_seed(training.seed)
    speech_model = SpeechModel.create(job.recipe, config, vocabulary, job.device)
    source = select_training_examples(speech_model, open_split(speech_model, "train"), log)
    validation = open_split(speech_model, "val") if config.DataConfig.val_manifest else None
    augmentation = Augmentation(config.DataConfig.AugmentationConfig)
    augmentation.check(source.store)
    if job.rank == 0:
        keeper.check_writable()
    planner = EpochPlan(speech_model, source, job.rank, job.ranks, augmentation.slowest)
    rates = make_schedule(config.OptimConfig, training.epochs, planner.steps_per_epoch)

    # ---- network and optimizer
    if job.start_from:
        _fine_tune(speech_model, job.start_from, log)
    forecast = forecast_memory(speech_model, ranks.local_world_size(), planner.shapes)
    # The tightest of all hosts', so that a checkpoint can name the one that a run goes on with.
    forecast = replace(forecast, limit=float(ranks.all_gather(forecast.limit)[:, 0].min()))
    step = TrainStep(speech_model, forecast, ranks)
    decoder = speech_model.decoder(config.LMConfig)

    # ---- resuming: everything from `last`, or nothing
    progress, identity = Progress(), identity_of(source, job.ranks)
    if job.resume:
        progress = _resume(speech_model, step, keeper, planner, identity, log)
    checked = identity_of(validation, job.ranks) if validation is not None else {}
    _same_everywhere(ranks, speech_model, identity, checked)
    history = History(METRICS, progress.step)
    film = EmissionAnimation(FILM, validation, speech_model.featurizer, vocabulary, progress.step)
    reporter = Reporter(log, speech_model, planner, job.rank)
    reporter.start(validation, step.forecast, progress)

    # ---- a new run, which nothing has refused: an earlier one in this folder makes room
    if job.rank == 0 and not job.resume:
        drawn = Path(METRICS), Path(CURVES), film.gif, film.png, film.npz
        if folder := keeper.set_aside(*drawn):
            log.info(f"a new run: the earlier one's checkpoints and figures are now in {folder}")
    ranks.all_gather()
    heart.set_checkpoint(keeper.last)

    def save(best: bool) -> None:
        if job.rank != 0:
            return
        metadata = speech_model.metadata(
            progress=asdict(progress),
            data=identity,
            memory_limit=step.forecast.limit,
            shapes=planner.shapes,
            loss_scale=step.scaling.state(),
        )
        if best:  # before `last`, which says how good the best is: a kill may come in between
            scores = {"wer": progress.best_wer, "cer": progress.best_cer}
            keeper.save_best(step.result(), {**metadata, "scores": scores})
        weights = dict(speech_model.network.parameters_dict().items())
        path = keeper.save_last(
            {**weights, **step.state()}, metadata, progress.epoch, progress.step
        )
        log.debug(f"checkpoint {path}")

    def watch(utterance: Prediction) -> None:
        if stopping.asked:
            raise _Stop
        heart.beat(f"evaluating after step {progress.step}")
        film.watch(utterance)

    def measure() -> None:
        """Evaluates, notes the figures, saves."""
        found = None
        if validation is not None:
            data, label = config.DataConfig, "evaluating" if job.rank == 0 else None
            with suppress(_Stop), step.result_in_place():
                found = evaluate(
                    speech_model,
                    decoder,
                    validation,
                    data.batch_size,
                    data.workers,
                    label,
                    watch=watch,
                    part=RankShard(job.rank, job.ranks, film.index, step.forecast.limit),
                )
            # One that was stopped in its part has no counts to give.
            counts = found.counts() if found else []
            stopped, *counts = ranks.all_reduce_sum(found is None, *counts)
            if stopped:
                raise _Stop
            found = found.of_all(counts)
        better = found is not None and progress.better(found)
        figures = progress.figures(planner, rates, found)
        progress.reset_window()
        # Before the checkpoint, since resuming drops a row too many; a full disk or a file in the
        # way costs the figures, not the run.
        unwritten = []
        if job.rank == 0:
            title = f"{speech_model.recipe.name}: {len(source)} utterances"
            calls = (history.add, figures), (history.draw, CURVES, title), (film.add, figures)
            unwritten = _failures(*calls, (film.draw,))
        save(best=better)
        for error in unwritten:
            log.warning(f"figures not written: {error}")
        left = progress.seconds / progress.step * (len(rates) - progress.step)
        reporter.evaluated(figures, left, found, better, training.hypotheses)

    def between_steps() -> None:
        """Evaluates if it is time to, and ends the run if that is asked for, in an evaluation too:
        that one is then still due, and the first thing that a resumed run does."""
        with suppress(_Stop):
            if progress.due(training):
                measure()
        if ranks.any_rank(stopping.asked):
            save(best=False)
            ranks.all_gather()  # none leaves before rank 0 has written
            due = ", before its evaluation" if progress.due(training) else ""
            log.info(f"stopped at step {progress.step}{due}; go on with --resume")
            raise KeyboardInterrupt

    # ---- epochs
    with _Stopping() as stopping, _saving(save, progress, log):
        between_steps()
        for epoch in range(progress.epoch, training.epochs):
            if progress.out_of_patience(training):
                break
            plan = planner.plan(epoch)[progress.batch :]
            reporter.open_bar(epoch, len(plan))
            made = batches(
                source,
                plan,
                speech_model.featurizer,
                augmentation,
                seed=training.seed,
                epoch=epoch,
                shapes=planner.shapes,
                pad_align=config.DataConfig.pad_align,
                output_frames=speech_model.output_frames,
                workers=config.DataConfig.workers,
            )
            try:
                for group, waited in _grouped(made, training.accumulation_step):
                    counting = planner.counting(epoch, progress.batch, len(group))
                    started = time.perf_counter()
                    result = step(group, float(rates[progress.step]), progress.step, counting)
                    elapsed = time.perf_counter() - started
                    progress.advance(group, result, elapsed, waited, len(planner))
                    heart.step_finished(progress.step)
                    reporter.step(progress, epoch, result, len(group))
                    if progress.skipped_in_a_row >= max(training.max_nonfinite, 1):
                        raise Diverged(
                            f"{progress.skipped_in_a_row} steps in a row were not finite, up to "
                            f"step {progress.step} (utterances {', '.join(result.blamed[:5])}); "
                            f"the last good checkpoint is {keeper.last}; lower "
                            "OptimConfig.learning_rate or TrainingConfig.clip_norm"
                        )
                    between_steps()
                    if progress.out_of_patience(training):
                        break
            finally:
                reporter.bar.close()
                made.close()
    if job.rank == 0:
        files = [Path(METRICS), Path(CURVES), *film.files]
        reporter.end(progress, keeper, [file.resolve() for file in files])
    return progress


def _same_everywhere(
    ranks: ProcessGroup, speech_model: SpeechModel, identity: dict, validation: dict
) -> None:
    """Refuses a run whose ranks would train on other data, or from other weights, or would not
    meet: the hosts of one job have files of their own."""
    if ranks.count == 1:
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
        "vocabulary": zlib.crc32(repr(speech_model.vocabulary.labels).encode()),
        "weights to start from": weights,
    }
    found = ranks.all_gather(*known.values())
    for column, what in enumerate(known):
        if others := np.flatnonzero(found[:, column] != found[0, column]).tolist():
            raise UserError(
                f"rank {others[0]}, and in all {len(others)} of {ranks.count} ranks, have another "
                f"{what} than rank 0: give every host of the job the same files and options"
            )


def _failures(*calls: tuple) -> list[UserError]:
    """Functions with their arguments, called one after the other: what went wrong."""
    failures = []
    for call, *arguments in calls:
        try:
            call(*arguments)
        except UserError as error:
            failures.append(error)
    return failures


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


@contextmanager
def _saving(
    save: Callable[[bool], None], progress: Progress, log: logging.Logger
) -> Iterator[None]:
    """Writes a checkpoint before a UserError leaves: a damaged recording, or an evaluation that
    failed, costs none of the steps that were done."""
    try:
        yield
    except Diverged:
        raise
    except UserError:
        if progress.step:
            if unwritten := _failures((save, False)):
                log.warning(str(unwritten[0]))
            else:
                log.info(f"stopped at step {progress.step}; go on with --resume")
        raise


class _Stop(Exception):
    """Leaves an evaluation that a stopping signal has come into."""


class _Stopping:
    """Turns the first SIGINT or SIGTERM into a request; the second acts at once. SIGHUP, of a
    terminal that is closed, comes from the kernel and from the shell: it asks, however often, and
    under nohup does not."""

    def __enter__(self) -> _Stopping:
        self.asked = False
        self.previous = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self.previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: nobody can press Ctrl-C here
                break
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        then = signal.SIG_IGN if number == signal.SIGHUP else self.previous[number]
        signal.signal(number, then)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _keeper(config: Any) -> CheckpointKeeper:
    group = config.CheckpointConfig
    return CheckpointKeeper(group.ckpt_path, group.ckpt_file_name_prefix, group.keep_checkpoint_max)


def _fine_tune(speech_model: SpeechModel, path: str, log: logging.Logger) -> None:
    found = checkpoints.load(path)
    averaged = checkpoints.take_averages(found)
    _warn_of_features(speech_model, found, log)
    new_head = speech_model.recipe.head
    if found.metadata and tuple(found.metadata["labels"]) == speech_model.vocabulary.labels:
        new_head = None
    elif found.metadata:  # the same number of other labels would fit, and mean nothing
        found.parameters = {
            name: value
            for name, value in found.parameters.items()
            if speech_model.recipe.head not in name
        }
    report = checkpoints.load_into(
        speech_model.network, found, speech_model.recipe.rename_parameter, new_head
    )
    of = ", the moving average of its weights" if averaged else ""
    log.info(f"start from {path}{of}: {report}")
    if any(name.startswith(speech_model.recipe.head) for name in report.missing + report.reshaped):
        log.info(f"another vocabulary: the output layer {speech_model.recipe.head} starts anew")


def _warn_of_features(
    speech_model: SpeechModel, found: checkpoints.Checkpoint, log: logging.Logger
) -> None:
    """Says in what the features differ that the weights were trained on: they may still help."""
    if found.metadata is None:
        return
    before = speech_model.recipe.build_featurizer(
        described(speech_model.recipe, found)[0].DataConfig
    )
    now = asdict(speech_model.featurizer.config)
    for key, value in asdict(before.config).items():
        if now[key] != value:
            log.warning(f"{found.path} was trained with {key}={value}, this run has {now[key]}")


def _resume(
    speech_model: SpeechModel,
    step: TrainStep,
    keeper: CheckpointKeeper,
    planner: EpochPlan,
    identity: dict,
    log: logging.Logger,
) -> Progress:
    found = checkpoints.load(keeper.last)
    before = configs.leaves(described(speech_model.recipe, found)[0])
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
    if found.metadata["data"] != identity:
        raise UserError(
            f"--resume: the run in {keeper.last} trains on {found.metadata['data']}, "
            f"found {identity}; go back to the data it was started with"
        )
    checkpoints.load_into(speech_model.network, found, speech_model.recipe.rename_parameter)
    for name, parameter in step.state().items():
        if name not in found.parameters:
            raise UserError(f"--resume: {keeper.last} lacks the optimizer's {name}")
        parameter.set_data(Tensor(found.parameters[name], parameter.dtype))
    if state := found.metadata.get("loss_scale"):
        step.scaling.restore(state)
    # The micro-batches of the run so far, whatever this machine's memory: they enter the
    # statistics of batch normalisation.
    limit = found.metadata["memory_limit"]
    if limit > runtime.machine_memory():
        log.warning(
            f"the run was started with {limit / GIB:.1f} GiB allowed, more than this machine has "
            f"({runtime.machine_memory() / GIB:.1f} GiB); it may be ended for lack of memory"
        )
    step.forecast = replace(step.forecast, limit=limit)
    if planner.shapes and list(map(tuple, found.metadata.get("shapes") or ())) != planner.shapes:
        log.warning(
            "the run was begun by another version, which had other static shapes: it goes on, but "
            "not exactly as it would have gone on there"
        )
    return Progress(**found.metadata["progress"])
