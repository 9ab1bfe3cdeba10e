"""A network and a decoder over a source of utterances, scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.batch_sampler import PlannedBatch, plan_epoch, split, static_shapes
from common.data.dataset import Dataset
from common.data.loader import batches
from common.evaluation.scoring import Evaluation, Prediction, ScoredUtterance, Scorer
from common.memory import forecast_forward
from common.model.decoder import SpeechDecoder
from common.model.speech_model import SpeechModel
from common.utils.errors import UserError
from common.utils.files import file_name

MOST_FRAMES = 30_000  # of a batch: five minutes of speech at 10 ms


@dataclass(frozen=True)
class RankShard:
    """The batches that one of several ranks recognises: whole ones, so that each utterance has the
    neighbours, and to the last bit the result, that it has in one process; every so-many-th, so
    that all parts take about as long. Rank 0 has the one with utterance `watched`. memory: bytes
    that each may take, the same for all, since batches depend on it."""

    rank: int
    ranks: int
    watched: int = 0
    memory: float = math.inf

    def of(self, plan: Sequence[PlannedBatch]) -> list[PlannedBatch]:
        having = (n for n, batch in enumerate(plan) if self.watched in batch.indices[: batch.valid])
        return list(plan[(next(having, 0) + self.rank) % self.ranks :: self.ranks])


def recognise(
    speech_model: SpeechModel,
    decoder: SpeechDecoder,
    source: Dataset,
    batch_size: int,
    workers: int = 2,
    progress: str | None = None,
    part: RankShard | None = None,
) -> Iterator[Prediction]:
    """Every utterance of a source once, batched by length, from short to long; of several ranks
    each has its `part`.

    Batches of long recordings are smaller: memory follows their frames, not their number. Raises
    UserError, naming the utterance, for one that the machine's memory cannot take by itself.

    progress: what the progress bar is called; None: no bar.
    """
    forecast = forecast_forward(speech_model)
    if part is not None:
        forecast = replace(forecast, limit=min(forecast.limit, part.memory))
    for name, frames in zip(source.ids, source.frames.tolist()):
        forecast.check(f"utterance {name}", frames)
    data, shapes = speech_model.config.DataConfig, None
    if speech_model.static:
        count = data.static_shapes
        shapes = static_shapes(source.frames, source.label_counts, count, data.pad_align)
    plan = plan_epoch(
        source.frames, source.label_counts, batch_size=batch_size, shapes=shapes, shuffle=False
    )
    most = min(MOST_FRAMES, forecast.most_frames)
    plan = split(plan, source.frames, most, speech_model.static)
    if part is not None:
        plan = part.of(plan)
    hidden = None if progress else True  # None: where nobody looks at a terminal
    total = sum(batch.valid for batch in plan)
    bar = tqdm(total=total, desc=progress, unit="utt", disable=hidden, leave=False)
    with bar:
        for batch in batches(
            source,
            plan,
            speech_model.featurizer,
            shapes=shapes,
            pad_align=data.pad_align,
            workers=workers,
        ):
            decoded = decoder.decode(batch.features, batch.lengths, batch.valid)
            for index, id, utterance in zip(batch.indices, batch.ids, decoded):
                yield Prediction(index, id, utterance.hypotheses, utterance.log_probs)
            bar.update(batch.valid)


def evaluate(
    speech_model: SpeechModel,
    decoder: SpeechDecoder,
    source: Dataset,
    batch_size: int,
    workers: int = 2,
    progress: str | None = "evaluating",
    each: Callable[[ScoredUtterance], None] | None = None,
    save_output: str | Path = "",
    watch: Callable[[Prediction], None] | None = None,
    part: RankShard | None = None,
) -> Evaluation:
    """Recognises and scores a source, or a part of it.

    each: called with every utterance as it is scored. watch: before that, with what the network
    gave; its arrays are views that are good until it returns. save_output: a folder that gets each
    utterance's log-probabilities (T', C) as `<id>.npy`.
    """
    folder = _output_folder(save_output)
    scorer = Scorer(speech_model.vocabulary, speech_model.frame_seconds)
    for found in recognise(speech_model, decoder, source, batch_size, workers, progress, part):
        if watch is not None:
            watch(found)
        duration = float(source.durations[found.index])
        utterance = scorer.add(found, source.texts[found.index], duration)
        if folder is not None:
            _keep(folder / f"{file_name(found.id)}.npy", found.log_probs)
        if each is not None:
            each(utterance)
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


def _keep(path: Path, log_probs: np.ndarray) -> None:
    try:
        np.save(path, log_probs)
    except OSError as error:
        raise UserError(f"save_output {path}: cannot be written ({error.strerror})") from error
