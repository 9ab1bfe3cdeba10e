"""From a source and a plan to batches of features, made ahead of the consumer in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from common.audio.augmentation import Augmentation
from common.audio.features import Featurizer
from common.data.batch_sampler import PlannedBatch, Shape, aligned
from common.data.dataset import Dataset, Example
from common.text.tokenizer import ctc_frames_needed
from common.utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one size. Rows past the first `valid` are repeats that count nowhere."""

    features: np.ndarray  # (B, F, T) float32, padded with 0
    lengths: np.ndarray  # (B,) int32, feature frames
    targets: np.ndarray  # (B, L) int32 labels, padded with 0; L is at least 1
    target_lengths: np.ndarray  # (B,) int32
    indices: tuple[int, ...]  # in the source
    ids: tuple[str, ...]
    valid: int
    seconds: float  # of speech in the valid rows, without augmentation

    @property
    def frames(self) -> int:
        """What every row is padded to."""
        return self.features.shape[2]


def batches(
    source: Dataset,
    plan: Sequence[PlannedBatch],
    featurizer: Featurizer,
    augmentation: Augmentation | None = None,
    *,
    seed: int = 0,
    epoch: int = 0,
    shapes: Sequence[Shape] | None = None,
    pad_align: int = 1,
    output_frames: Callable[[int], int] | None = None,
    workers: int = 2,
    prefetch: int = 4,
) -> Generator[Batch, None, None]:
    """The planned batches, in order; what is in them depends on plan, seed and epoch only.

    shapes: static ones, so that none is new to the network: a batch is padded as planned, or to the
        next shape where another speed has made a row longer than that. None: to its longest row.
    pad_align: pad to a multiple of so many frames; static shapes are such multiples already.
    output_frames: the network's output frames for so many feature frames. An utterance that
        augmentation made too short for its labels (CTC), or too long for all static shapes, is
        used as it was recorded.
    workers: threads, each of which makes a batch at a time.
    prefetch: batches made ahead, or being made.

    Close the iterator to stop early. Raises UserError where `source` cannot be augmented like that;
    what goes wrong with an utterance is raised with its id.
    """
    if augmentation is not None:
        augmentation.check(source.store)
    if augmentation is not None and not augmentation.active(epoch):
        augmentation = None
    maker = _BatchBuilder(featurizer, augmentation, seed, epoch, shapes, pad_align, output_frames)
    return _ahead(source, plan, maker, workers, max(prefetch, 1))


def _ahead(
    source: Dataset, plan: Sequence[PlannedBatch], maker: _BatchBuilder, workers: int, prefetch: int
) -> Iterator[Batch]:
    """Reads rows in this thread, has batches made of them in others, keeps the order."""
    rows = source.read([index for planned in plan for index in planned.indices])
    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="batches")
    waiting = deque()
    try:
        with closing(rows):
            for planned in plan:
                ours = list(islice(rows, len(planned.indices)))
                seconds = float(source.durations[list(planned.indices[: planned.valid])].sum())
                waiting.append(pool.submit(maker, planned, ours, seconds))
                if len(waiting) > prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _BatchBuilder:
    """Makes one batch of the rows that were read for it."""

    featurizer: Featurizer
    augmentation: Augmentation | None
    seed: int
    epoch: int
    shapes: Sequence[Shape] | None
    pad_align: int
    output_frames: Callable[[int], int] | None

    def __call__(self, planned: PlannedBatch, rows: Sequence[Example], seconds: float) -> Batch:
        features = [self._named_features(row) for row in rows]
        lengths = np.array([each.shape[1] for each in features], np.int32)
        frames, labels = self._shape(planned, int(lengths.max()))
        padded = np.zeros((len(rows), self.featurizer.dimension, frames), np.float32)
        targets = np.zeros((len(rows), max(labels, 1)), np.int32)
        for number, (row, each) in enumerate(zip(rows, features)):
            padded[number, :, : each.shape[1]] = each
            targets[number, : len(row.label_ids)] = row.label_ids
        return Batch(
            features=padded,
            lengths=lengths,
            targets=targets,
            target_lengths=np.array([len(row.label_ids) for row in rows], np.int32),
            indices=tuple(row.index for row in rows),
            ids=tuple(row.id for row in rows),
            valid=planned.valid,
            seconds=seconds,
        )

    def _shape(self, planned: PlannedBatch, longest: int) -> Shape:
        if not self.shapes:
            return aligned(longest, self.pad_align), planned.labels
        frames = max(longest, planned.frames)
        fit = (each for each in self.shapes if each[0] >= frames and each[1] >= planned.labels)
        return min(fit)

    def _named_features(self, row: Example) -> np.ndarray:
        try:
            return self._features(row)
        except UserError as error:
            raise UserError(f"utterance {row.id}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"utterance {row.id}: {error}") from error

    def _features(self, row: Example) -> np.ndarray:
        # Generator and order of draws are all that an augmented utterance depends on.
        rng = np.random.default_rng((self.seed, self.epoch, row.index))
        features = row.features
        if features is None:
            samples = row.samples(self.featurizer)
            if self.augmentation is not None:
                sample_rate = self.featurizer.config.sample_rate
                varied = self.augmentation.waveform(samples, sample_rate, rng)
                if self._fits(self.featurizer.frames(len(varied)), row):
                    samples = varied
            features = self.featurizer(samples)
        if self.augmentation is not None:
            # Of single frames: what is masked is so in every frame that it is stacked into.
            single = features[: self.featurizer.config.bins]
            features = self.featurizer.splice(self.augmentation.features(single, rng))
        return features

    def _fits(self, frames: int, row: Example) -> bool:
        if self.shapes and frames > max(self.shapes)[0]:
            return False
        if self.output_frames is None:
            return True
        return int(self.output_frames(frames)) >= ctc_frames_needed(row.label_ids)
