"""What `doctor` measures in processes of its own: kernels, and train steps of the run.

Every finding is a line of its own on stdout, `MARK` and JSON, written as soon as it is known: what
a process found before it was killed or ran out of time is not lost.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common import memory
from common.audio.augmentation import Augmentation
from common.data.batch_sampler import PlannedBatch, Shape, padded_share
from common.data.dataset import Dataset, Entry, Example
from common.data.loader import batches
from common.data.manifest import Utterance, listed, without_copies
from common.data.splits import open_split, read_split, shard_files
from common.doctor.measuring import say
from common.doctor.steps import Steps, padded
from common.model.recipe import Recipe
from common.model.speech_model import SpeechModel
from common.nn.matmul_convolution import MatmulConvolution, MatmulTimeConvolution, convolution
from common.nn.recurrent import FusedLSTM, Recurrent
from common.training.epoch_plan import EpochPlan, select_training_examples
from common.training.train_step import TrainStep
from common.utils import runtime
from common.utils.backend import Tensor, ms, nn
from common.utils.errors import UserError

MAX_HEADERS = 500  # recordings whose headers are read where a manifest gives no durations
LOADING = 4.0  # seconds for which the loader is timed, and so many batches at most:
LOADED = 24
NOTHING_AT_HAND = (2.0, 8.0, 14.0)  # seconds of an utterance where there are no data


# ---- kernels


def kernels(device_target: str | None, device_id: int | None) -> None:
    """Time small operators, and report seconds and GFLOP/s of the fastest of three runs.

    They are a convolution like DeepSpeech2's second one, by MindSpore's operator ("native") and by
    matrix products ("matmul"), and an LSTM. Under ONEDNN_VERBOSE=1 oneDNN's own lines come in
    between.

    Args:
        device_target: The device; None: the best one.
        device_id: Number of the card; None: the first.
    """
    say(devices=runtime.available_devices(), versions=runtime.versions())
    device = runtime.set_device(device_target, device_id)
    rng = np.random.default_rng(0)

    def values(*shape: int) -> Tensor:
        return Tensor((0.02 * rng.standard_normal(shape)).astype(np.float32))

    outputs, inputs, height, width, bins, frames = 32, 32, 21, 11, 20, 40
    weight, x = values(outputs, inputs, height, width).asnumpy(), values(1, inputs, bins, frames)
    # Two for each product: a multiplication and an addition.
    operations = 2 * outputs * inputs * height * width * (bins // 2) * frames
    for name, native in (("native", True), ("matmul", False)):
        cell = convolution(weight, (2, 1), native)
        cell.set_train(False)
        _time_kernel(name, cell, (x,), operations)

    if device == "Ascend":  # another operator, in float16
        return
    size, rows, frames = 512, 4, 100
    shapes: list[tuple[int, ...]] = [
        (frames, rows, size),
        (4 * size, size),
        (4 * size, size),
        (4 * size,),
    ]
    if device != "CPU":
        shapes.append((4 * size,))
    arguments = [values(*shape) for shape in shapes]
    if device == "CPU":
        arguments.append(values(4 * size))
    cell = FusedLSTM(size, size, summed_bias=device == "CPU")
    _time_kernel("LSTM", cell, arguments, 2 * 8 * size * size * rows * frames)


def _time_kernel(name: str, cell: nn.Cell, arguments: Sequence[Tensor], operations: int) -> None:
    say(begin=name)
    times = []
    for _ in range(4):  # the first compiles
        started = time.perf_counter()
        cell(*arguments).asnumpy()
        times.append(time.perf_counter() - started)
    seconds = min(times[1:])
    say(end=name, seconds=seconds, gflops=operations / seconds / 1e9)


# ---- the run


def training(
    recipe: Recipe,
    config: Any,
    device_target: str | None,
    device_id: int | None,
    seconds: float,
    quick: bool = False,
) -> None:
    """Report memory, plan and loader of a run, and time its train steps.

    What keeps train.py from starting is reported as an obstacle.

    Args:
        recipe: The model.
        config: Its training configuration.
        device_target: The device; None: the best one.
        device_id: Number of the card; None: the first.
        seconds: For which steps are timed, about.
        quick: Report only what the forecast of an epoch needs.
    """
    device = runtime.set_device(device_target, device_id)
    tokenizer = recipe.load_tokenizer(config)
    ms.set_seed(config.TrainingConfig.seed)
    speech_model = SpeechModel.create(recipe, config, tokenizer, device)
    say(
        device=device,
        parameters=speech_model.parameters(),
        dimension=speech_model.featurizer.dimension,
        operators=_operators(speech_model.network),
    )

    source = _data(speech_model)
    plan, shapes, longest = _plan(speech_model, source)
    data = config.DataConfig
    forecast = memory.forecast_memory(speech_model, shapes=shapes)
    say(limit=forecast.limit)
    try:
        forecast.check(longest)
    except UserError as error:
        say(obstacle=str(error))
        return
    say(memory=forecast.line(data.batch_size, longest))
    step = TrainStep(speech_model, forecast)
    weights = list(speech_model.network.get_parameters())
    say(
        checkpoint=_bytes(weights) + _bytes(step.state().values()),
        best=_bytes(weights),
    )
    if source is not None and not quick:
        _loader(speech_model, source, plan, shapes)
    Steps(speech_model, step, source, plan, seconds, quick).run()


def _bytes(parameters: Iterable[Any]) -> int:
    return sum(parameter.size * parameter.itemsize for parameter in parameters)


def _operators(network: nn.Cell) -> list[str]:
    cells = [cell for _, cell in network.cells_and_names()]
    convolutions = nn.Conv2d, MatmulConvolution, MatmulTimeConvolution
    operators = []
    if any(isinstance(cell, convolutions) for cell in cells):
        operators.append("convolution")
    if any(isinstance(cell, Recurrent) for cell in cells):
        operators.append("LSTM")
    return operators


# ---- data


def _data(speech_model: SpeechModel) -> Dataset | None:
    """Return what would be trained on: the converted utterances, or else those of the manifest."""
    data = speech_model.config.DataConfig
    log = logging.getLogger("doctor")
    log.propagate = False
    try:
        source = open_split(speech_model, "train")
        origin = str(shard_files(data, "train")[0])
    except UserError as error:
        say(obstacle=str(error))
        try:
            source, origin = _from_manifest(speech_model)
        except UserError as missing:
            say(obstacle=str(missing))
            return None
    else:
        say(converted=True)
    try:
        chosen = select_training_examples(speech_model, source, log)
        Augmentation(data.AugmentationConfig).check(chosen.store)
    except UserError as error:
        say(obstacle=str(error))
        return None
    if data.val_manifest:
        try:
            open_split(speech_model, "val")
        except UserError as error:
            say(obstacle=str(error))
    say(source=origin, utterances=len(chosen), everything=float(source.durations.sum()))
    return chosen


class ListedDataset(Dataset):
    """Utterances of a manifest with known or guessed durations; no recording is opened."""

    store = "audio"

    def __init__(self, utterances: list[Utterance], entries: list[Entry], labels: list[list[int]]):
        super().__init__(entries)
        self._audio = [utterance.segment for utterance in utterances]
        self._labels = labels

    def read(self, indices: Iterable[int]) -> Generator[Example, None, None]:
        """Yield the utterances, and where their recordings are."""
        for index in indices:
            labels = np.array(self._labels[index], np.int32)
            yield Example(int(index), self.ids[index], labels, audio=self._audio[index])


def _from_manifest(speech_model: SpeechModel) -> tuple[Dataset, str]:
    data, tokenizer = speech_model.config.DataConfig, speech_model.tokenizer
    everything = read_split(data, tokenizer, "train", _note)
    if data.ignore_offline_speed_perturbation:
        everything = without_copies(everything, listed(data.train_manifest), _note)
    good = []
    for utterance in everything:
        text = tokenizer.normalise(utterance.text)
        if text and not tokenizer.unknown(text):
            good.append((utterance, text, tokenizer.encode(text)))
    if not good:
        raise UserError(f"{listed(data.train_manifest)}: no text that the labels can spell")
    durations, guessed = guess_durations([utterance for utterance, *_ in good])
    rate = speech_model.featurizer.config.sample_rate
    entries = [
        Entry(
            id=utterance.id,
            text=text,
            duration=float(duration),
            frames=int(speech_model.featurizer.frames(round(duration * rate))),
            labels=len(labels),
            ctc_frames=tokenizer.frames_needed(labels),
            copy_of=utterance.copy_of,
        )
        for (utterance, text, labels), duration in zip(good, durations)
    ]
    origin = listed(data.train_manifest)
    if guessed:
        origin += f" (lengths of {guessed} recordings guessed from {MAX_HEADERS} others)"
    utterances, _, labels = map(list, zip(*good))
    return ListedDataset(utterances, entries, labels), origin


def _note(line: str) -> None:
    say(note=line)


def guess_durations(utterances: Sequence[Utterance]) -> tuple[np.ndarray, int]:
    """Find the durations of utterances.

    They come from the manifest or from the recording's header. Of more than MAX_HEADERS recordings
    without a duration in the manifest, the rest get durations drawn from the known ones.

    Args:
        utterances: Of a manifest.

    Returns:
        (N,) seconds, and how many of them were drawn.

    Raises:
        UserError: No duration can be read.
    """
    known_of = [u.duration if u.duration and u.duration > 0 else np.nan for u in utterances]
    durations = np.array(known_of, float)
    unknown, rng = np.flatnonzero(np.isnan(durations)), np.random.default_rng(0)
    first_error: UserError | None = None
    for index in rng.permutation(unknown)[:MAX_HEADERS]:
        try:
            durations[index] = utterances[index].segment.info().duration
        except UserError as error:
            first_error = first_error or error
    known = durations[~np.isnan(durations)]
    if first_error is not None and not len(known):
        raise first_error
    rest = np.isnan(durations)
    durations[rest] = rng.choice(known, np.count_nonzero(rest))
    return durations, max(0, len(unknown) - MAX_HEADERS)


def _plan(
    speech_model: SpeechModel, source: Dataset | None
) -> tuple[list[PlannedBatch], list[Shape] | None, int]:
    """Return the batches of the second epoch, when they are shuffled.

    Also their static shapes, if they have such, and the frames of the longest utterance at the
    slowest speed.
    """
    data, features = speech_model.config.DataConfig, speech_model.featurizer
    if source is None:
        lengths = [min(seconds, data.max_duration) for seconds in NOTHING_AT_HAND]
        rate = features.config.sample_rate
        frames = [features.frames(round(seconds * rate)) for seconds in lengths]
        rows = data.batch_size
        plan = [PlannedBatch((0,) * rows, count, max(count // 10, 1), rows) for count in frames]
        return plan, None, max(frames)
    slowest = Augmentation(data.AugmentationConfig).slowest
    planner = EpochPlan(speech_model, source, slowest=slowest)
    plan = planner.plan(1)
    planned = [padded(batch, data.pad_align) for batch in plan]
    paddings = {}
    changes = {}
    if data.pad_align > 1:
        changes["pad_align"] = 1
    if speech_model.static_training and speech_model.device != "CPU":  # there each takes memory
        changes["static_shapes"] = 2 * data.static_shapes
    for key, value in changes.items():
        other = copy.deepcopy(speech_model.config)
        setattr(other.DataConfig, key, value)
        others = EpochPlan(replace(speech_model, config=other), source).plan(1)
        paddings[f"{key}={value}"] = sum(
            padded(batch, other.DataConfig.pad_align) for batch in others
        )
    say(
        planned=planned,
        speech=float(sum(source.durations[list(b.indices[: b.valid])].sum() for b in plan)),
        padding=padded_share(plan, source.frames),
        paddings=paddings,
        durations=np.quantile(source.durations, [0, 0.5, 1]).tolist(),
    )
    return plan, planner.shapes, int(source.frames.max() / slowest)


def _loader(
    speech_model: SpeechModel,
    source: Dataset,
    plan: list[PlannedBatch],
    shapes: list[Shape] | None,
) -> None:
    """Report the seconds of speech that the loader makes in a second, with nothing beside it."""
    config = speech_model.config
    augmentation = Augmentation(config.DataConfig.AugmentationConfig)
    picks = np.unique(np.linspace(0, len(plan) - 1, LOADED).astype(int))
    loader = batches(
        source,
        [plan[pick] for pick in picks],
        speech_model.featurizer,
        augmentation,
        seed=config.TrainingConfig.seed,
        epoch=config.DataConfig.AugmentationConfig.from_epoch,
        shapes=shapes,
        pad_align=config.DataConfig.pad_align,
        output_frames=speech_model.output_frames,
        workers=config.DataConfig.workers,
    )
    started, spoken = time.perf_counter(), 0.0
    try:
        for batch in loader:
            spoken += batch.seconds
            if time.perf_counter() - started > LOADING:
                break
    except UserError as error:  # of one recording: it would be left out, or end the run
        say(note=f"the loader: {error}")
        return
    finally:
        loader.close()
    say(delivered=spoken / (time.perf_counter() - started))
