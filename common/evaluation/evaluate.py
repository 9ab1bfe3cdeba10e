"""Recognise and score the utterances of a dataset with a network and a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from common.data.batch_sampler import PlannedBatch, plan_epoch, split, static_shapes
from common.data.dataset import Dataset, ManifestDataset, ReadFailure
from common.data.loader import batches
from common.data.manifest import Utterance
from common.evaluation.scoring import (
    Evaluation,
    Prediction,
    ScoredUtterance,
    Scorer,
)
from common.memory import forecast_forward
from common.model.acoustic_model import AcousticModel
from common.model.decoder import SpeechDecoder
from common.utils.errors import UserError
from common.utils.files import file_name

R = TypeVar("R")

MAX_BATCH_FRAMES = 30_000  # feature frames, padded: five minutes of speech at 10 ms


@dataclass(frozen=True)
class RankShard:
    """The batches that one of several ranks recognises.

    They are whole batches, so that each utterance has the neighbours, and to the last bit the
    result, that it has in one process. Every `ranks`-th batch goes to a rank, so that all take
    about as long.

    Attributes:
        rank: Number of this rank.
        ranks: Number of ranks.
        watched: Index of an utterance that rank 0 is to have.
        memory: Bytes to keep to; the same on every rank, since batches depend on it.
    """

    rank: int
    ranks: int
    watched: int = 0
    memory: float = math.inf

    def of(self, plan: Sequence[PlannedBatch]) -> list[PlannedBatch]:
        """Return the batches of `plan` that this rank recognises."""
        positions = (
            position
            for position, batch in enumerate(plan)
            if self.watched in batch.indices[: batch.valid]
        )
        return list(plan[(next(positions, 0) + self.rank) % self.ranks :: self.ranks])


def recognise(
    model: AcousticModel,
    decoder: SpeechDecoder,
    dataset: Dataset,
    batch_size: int,
    workers: int = 2,
    progress: str | None = None,
    part: RankShard | None = None,
    on_unreadable: Callable[[ReadFailure], None] | None = None,
) -> Iterator[Prediction]:
    """Recognise every utterance of a dataset once, batched by length, from short to long.

    Batches of long recordings are smaller: memory grows with their frames, not their number.

    Args:
        model: Network, tokenizer and features.
        decoder: What turns its features into hypotheses (`AcousticModel.decoder`).
        dataset: The utterances.
        batch_size: Utterances in a batch, at most.
        workers: Threads that decode recordings and make features.
        progress: Name of the progress bar; None: no bar.
        part: With several ranks, the share of this one.
        on_unreadable: Called with each utterance whose recording cannot be decoded, which is then
            skipped. None: such a recording is an error.

    Yields:
        A prediction for each utterance that could be read.

    Raises:
        UserError: An utterance is too long for the machine's memory or the network, or cannot be
            decoded; the message names it.
    """
    forecast = forecast_forward(model)
    if part is not None:
        forecast = replace(forecast, limit=min(forecast.limit, part.memory))
    for utterance_id, frames in zip(dataset.ids, dataset.frames.tolist()):
        forecast.check(f"utterance {utterance_id}", frames)
    data, shapes = model.config.DataConfig, None
    if model.static:
        count = data.static_shapes
        shapes = static_shapes(dataset.frames, dataset.label_counts, count, data.pad_align)
    plan = plan_epoch(
        dataset.frames, dataset.label_counts, batch_size=batch_size, shapes=shapes, shuffle=False
    )
    max_frames = min(MAX_BATCH_FRAMES, forecast.most_frames)
    plan = split(plan, dataset.frames, max_frames, model.static)
    if part is not None:
        plan = part.of(plan)
    hidden = None if progress else True  # None: hidden unless the output is a terminal
    total = sum(batch.valid for batch in plan)
    bar = tqdm(total=total, desc=progress, unit="utt", disable=hidden, leave=False)
    with bar:
        for batch in batches(
            dataset,
            plan,
            model.front_end,
            shapes=shapes,
            pad_align=data.pad_align,
            skip_unreadable=on_unreadable is not None,
            measure=True,
            workers=workers,
        ):
            if on_unreadable is not None:
                for failure in batch.unreadable:
                    on_unreadable(failure)
            if batch.valid:
                decoded = decoder.decode(batch.features, batch.lengths, batch.valid)
                rows = zip(batch.indices, batch.ids, batch.starts, batch.loudness, decoded)
                for index, id, start, loudness, utterance in rows:
                    start += utterance.start  # cut off here, or by the network itself
                    yield Prediction(
                        index,
                        id,
                        utterance.hypotheses,
                        utterance.log_probs,
                        start,
                        float(dataset.durations[index]),
                        loudness,
                    )
            bar.update(batch.valid + len(batch.unreadable))


def recognise_recordings(
    model: AcousticModel,
    decoder: SpeechDecoder,
    recordings: Sequence[Utterance],
    result_of: Callable[[Prediction], R],
    batch_size: int,
    workers: int = 2,
    progress: str | None = None,
    log: Callable[[str], None] | None = None,
) -> list[R | ReadFailure]:
    """Recognise recordings, each decoded once; one that cannot be read does not stop the others.

    Args:
        model: Network, tokenizer and features.
        decoder: As in `recognise`.
        recordings: Utterances, whose texts are not used; ids may repeat.
        result_of: What to keep of a prediction, such as its text; its log-probabilities are views
            of a batch, which take memory as long as they are kept.
        batch_size: Recordings in a batch, at most.
        workers: Threads that decode recordings and make features.
        progress: Name of the progress bar, shown where there is more than one batch.
        log: Receives one line about recordings that are resampled or down-mixed.

    Returns:
        For each recording, in order, the result of its prediction, or why it cannot be read (with
        its position in `recordings` as index).
    """
    dataset = ManifestDataset(
        recordings,
        model.featurizer,
        model.tokenizer,
        labelled=False,
        log=log,
        skip_unreadable=True,
        check_length=forecast_forward(model).check,
        workers=workers,
    )
    results: dict[int, R | ReadFailure] = {failure.index: failure for failure in dataset.unreadable}

    def add_failure(failure: ReadFailure) -> None:
        position = dataset.positions[failure.index]
        results[position] = replace(failure, index=position)

    label = progress if len(dataset) > batch_size else None
    predictions = recognise(
        model,
        decoder,
        dataset,
        batch_size,
        workers,
        label,
        on_unreadable=add_failure,
    )
    for prediction in predictions:
        results[dataset.positions[prediction.index]] = result_of(prediction)
    return [results[position] for position in range(len(recordings))]


def evaluate(
    model: AcousticModel,
    decoder: SpeechDecoder,
    dataset: Dataset,
    batch_size: int,
    workers: int = 2,
    progress: str | None = "evaluating",
    on_scored: Callable[[ScoredUtterance], None] | None = None,
    save_output: str | Path = "",
    watch: Callable[[Prediction], None] | None = None,
    part: RankShard | None = None,
    on_unreadable: Callable[[ReadFailure], None] | None = None,
    timed: bool = False,
) -> Evaluation:
    """Recognise and score a dataset, or one rank's part of it.

    Args:
        model: Network, tokenizer and features.
        decoder: As in `recognise`.
        dataset: The utterances, with their reference texts.
        batch_size: Utterances in a batch, at most.
        workers: Threads that decode recordings and make features.
        progress: Name of the progress bar; None: no bar.
        on_scored: Called with every utterance as it is scored.
        save_output: A folder that receives the log-probabilities (T', C) of each utterance as
            `<id>.npy`.
        watch: Called before an utterance is scored. The arrays of the prediction are views that
            are valid until it returns.
        part: With several ranks, the share of this one.
        on_unreadable: As in `recognise`.
        timed: Give recognised words their times and confidences, too.

    Returns:
        The figures of the utterances that could be read.

    Raises:
        UserError: As `recognise`, or `save_output` cannot be written.
    """
    folder = _output_folder(save_output)
    sample_rate = model.featurizer.config.sample_rate if timed else 0
    scorer = Scorer(model.tokenizer, model.frame_seconds, sample_rate)
    for prediction in recognise(
        model,
        decoder,
        dataset,
        batch_size,
        workers,
        progress,
        part,
        on_unreadable,
    ):
        if watch is not None:
            watch(prediction)
        duration = float(dataset.durations[prediction.index])
        utterance = scorer.add(prediction, dataset.texts[prediction.index], duration)
        if folder is not None:
            if prediction.log_probs is None:
                raise UserError(
                    f"save_output {save_output}: this network is not trained with CTC and has no "
                    "log-probabilities of frames to save; leave it out"
                )
            _save_log_probs(folder / f"{file_name(prediction.id)}.npy", prediction.log_probs)
        if on_scored is not None:
            on_scored(utterance)
    return scorer.evaluation()


def _output_folder(save_output: str | Path) -> Path | None:
    if not save_output:
        return None
    folder = Path(save_output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"save_output {folder}: cannot be made ({error.strerror})") from error
    return folder


def _save_log_probs(path: Path, log_probs: np.ndarray) -> None:
    try:
        np.save(path, log_probs)
    except OSError as error:
        raise UserError(f"save_output {path}: cannot be written ({error.strerror})") from error
