"""Batches of features from a dataset and a plan, made ahead of the consumer in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from common.audio.augmentation import Augmentation
from common.audio.features import Featurizer
from common.audio.pauses import Loudness
from common.data.batch_sampler import PlannedBatch, Shape, aligned
from common.data.dataset import Dataset, Example, ReadFailure
from common.utils.errors import UserError
from common.utils.packages import MissingPackageError


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one size. Rows past the first `valid` are repeats that count nowhere.

    Attributes:
        features: (B, F, T) float32, padded with 0.
        lengths: (B,) int32 feature frames.
        targets: (B, L) int32 labels, padded with 0; L is at least 1.
        target_lengths: (B,) int32 numbers of labels.
        indices: Indices of the rows in the dataset.
        ids: Ids of the rows.
        valid: Rows that count; 0 where no recording of the batch could be read.
        seconds: Seconds of speech in the valid rows, without augmentation.
        starts: Samples cut off before each row's features (`Featurizer.trim`), without
            augmentation.
        unreadable: Utterances left out; their `index` is that of the dataset.
        loudness: Of each row's recording, where it was asked for and there are samples.
    """

    features: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    target_lengths: np.ndarray
    indices: tuple[int, ...]
    ids: tuple[str, ...]
    valid: int
    seconds: float
    starts: tuple[int, ...] = ()
    unreadable: tuple[ReadFailure, ...] = ()
    loudness: tuple[Loudness | None, ...] = ()

    @property
    def frames(self) -> int:
        """Feature frames that every row is padded to."""
        return self.features.shape[2]


def batches(
    dataset: Dataset,
    plan: Sequence[PlannedBatch],
    featurizer: Featurizer,
    augmentation: Augmentation | None = None,
    *,
    seed: int = 0,
    epoch: int = 0,
    shapes: Sequence[Shape] | None = None,
    pad_align: int = 1,
    output_frames: Callable[[int], int] | None = None,
    skip_unreadable: bool = False,
    measure: bool = False,
    workers: int = 2,
    prefetch: int = 4,
) -> Generator[Batch, None, None]:
    """Make the planned batches, in order; their content depends on plan, seed and epoch only.

    Close the generator to stop early.

    Args:
        dataset: Gives the utterances. Each is decoded once for each batch that it is in.
        plan: Which utterances are in which batch.
        featurizer: Makes features of audio.
        augmentation: Varies audio and features; None: nothing is varied.
        seed: With epoch and utterance, determines the augmentation.
        epoch: Counted from 0.
        shapes: Static shapes (frames, labels): a batch is padded as planned, or to the next shape
            where another speed has made a row longer than that. None: to its longest row.
        pad_align: Pad to a multiple of so many frames; static shapes are such multiples already.
        output_frames: Output frames of the network for so many feature frames. An utterance that
            augmentation made too short for its labels (CTC), or too long for all static shapes, is
            used as it was recorded.
        skip_unreadable: List recordings that cannot be decoded in `Batch.unreadable` instead of
            raising. A batch then has fewer rows, or with static shapes more repeats.
        measure: Give the loudness of the recordings, too.
        workers: Threads, each of which makes a batch at a time.
        prefetch: Batches made ahead, or being made.

    Returns:
        An iterator over the batches.

    Raises:
        UserError: `dataset` cannot be augmented like that, or a recording cannot be decoded (the
            message names the utterance).
    """
    if augmentation is not None:
        augmentation.check(dataset.store)
    if augmentation is not None and not augmentation.active(epoch):
        augmentation = None
    builder = _BatchBuilder(
        featurizer,
        augmentation,
        seed,
        epoch,
        shapes,
        pad_align,
        output_frames,
        dataset.ctc_frames,
        skip_unreadable,
        measure,
    )
    return _prefetched(dataset, plan, builder, workers, max(prefetch, 1))


def _prefetched(
    dataset: Dataset,
    plan: Sequence[PlannedBatch],
    builder: _BatchBuilder,
    workers: int,
    prefetch: int,
) -> Generator[Batch, None, None]:
    """Read examples in this thread, build batches of them in others, yield these in order."""
    examples = dataset.read([index for planned in plan for index in planned.indices])
    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="batches")
    pending: deque[Future[Batch]] = deque()
    try:
        with closing(examples):
            for planned in plan:
                rows = list(islice(examples, len(planned.indices)))
                durations = dataset.durations[list(planned.indices)]
                pending.append(pool.submit(builder, planned, rows, durations))
                if len(pending) > prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _BatchBuilder:
    """Makes one batch of the examples that were read for it. Fields as in `batches`."""

    featurizer: Featurizer
    augmentation: Augmentation | None
    seed: int
    epoch: int
    shapes: Sequence[Shape] | None
    pad_align: int
    output_frames: Callable[[int], int] | None
    frames_needed: np.ndarray  # (N,) output frames that each utterance of the dataset needs
    skip_unreadable: bool
    measure: bool

    def __call__(
        self, planned: PlannedBatch, examples: Sequence[Example], durations: np.ndarray
    ) -> Batch:
        """Make the batch; `durations` (B,) are in seconds."""
        features: dict[int, np.ndarray] = {}  # by index: repeats are not decoded again
        starts: dict[int, int] = {}
        loudness: dict[int, Loudness | None] = {}
        unreadable: dict[int, ReadFailure] = {}
        for example in examples:
            if example.index in features or example.index in unreadable:
                continue
            try:
                made = self._features(example)
                features[example.index], starts[example.index], loudness[example.index] = made
            except UserError as error:
                if not self.skip_unreadable:
                    raise UserError(f"utterance {example.id}: {error}") from error
                failure = ReadFailure(example.index, example.id, str(error))
                unreadable[example.index] = failure
            except MissingPackageError:
                raise  # the same for every utterance, and it says what to install
            except Exception as error:
                raise RuntimeError(f"utterance {example.id}: {error}") from error
        rows = [row for row, example in enumerate(examples) if example.index in features]
        counted = [row for row in rows if row < planned.valid]
        if self.shapes and rows and len(rows) < len(examples):
            fill = counted or rows
            rows = np.resize(fill, len(examples)).tolist()  # repeats in place of the unreadable
        return self._padded(
            planned,
            [examples[row] for row in rows],
            [features[examples[row].index] for row in rows],
            valid=len(counted),
            seconds=float(durations[counted].sum()),
            starts=tuple(starts[examples[row].index] for row in rows),
            unreadable=tuple(unreadable.values()),
            loudness=tuple(loudness[examples[row].index] for row in rows),
        )

    def _padded(
        self,
        planned: PlannedBatch,
        examples: Sequence[Example],
        features: Sequence[np.ndarray],
        valid: int,
        seconds: float,
        starts: tuple[int, ...],
        unreadable: tuple[ReadFailure, ...],
        loudness: tuple[Loudness | None, ...],
    ) -> Batch:
        lengths = np.array([array.shape[1] for array in features], np.int32)
        frames, labels = self._shape(planned, int(lengths.max(initial=0)))
        padded = np.zeros((len(features), self.featurizer.dimension, frames), np.float32)
        targets = np.zeros((len(features), max(labels, 1)), np.int32)
        for row, example in enumerate(examples):
            padded[row, :, : lengths[row]] = features[row]
            targets[row, : len(example.label_ids)] = example.label_ids
        return Batch(
            features=padded,
            lengths=lengths,
            targets=targets,
            target_lengths=np.array([len(example.label_ids) for example in examples], np.int32),
            indices=tuple(example.index for example in examples),
            ids=tuple(example.id for example in examples),
            valid=valid,
            seconds=seconds,
            starts=starts,
            unreadable=unreadable,
            loudness=loudness,
        )

    def _shape(self, planned: PlannedBatch, longest: int) -> Shape:
        """Return frames and labels to pad to, where the longest row has `longest` frames."""
        if not self.shapes:
            return aligned(longest, self.pad_align), planned.labels
        frames = max(longest, planned.frames)
        return min(
            shape for shape in self.shapes if shape[0] >= frames and shape[1] >= planned.labels
        )

    def _features(self, example: Example) -> tuple[np.ndarray, int, Loudness | None]:
        """Compute the features (F, T) of one utterance, augmented; count what is cut before it."""
        # An augmented utterance depends on nothing but this generator and the order of draws.
        rng = np.random.default_rng((self.seed, self.epoch, example.index))
        features, start, loudness = example.features, 0, None
        sample_rate = self.featurizer.config.sample_rate
        if features is None:
            samples, start = example.trimmed(self.featurizer)
            if self.measure:
                loudness = Loudness.of(samples, sample_rate, start / sample_rate)
            if self.augmentation is not None:
                varied = self.augmentation.waveform(samples, sample_rate, rng)
                if self._fits(self.featurizer.frames(len(varied)), example):
                    samples = varied
            features = self.featurizer(samples)
        if self.augmentation is not None:
            # Mask before splicing: what is masked stays masked in every frame it is stacked into.
            single = features[: self.featurizer.config.bins]
            features = self.featurizer.splice(self.augmentation.features(single, rng))
        return features, start, loudness

    def _fits(self, frames: int, example: Example) -> bool:
        if self.shapes and frames > max(self.shapes)[0]:
            return False
        if self.output_frames is None:
            return True
        return int(self.output_frames(frames)) >= self.frames_needed[example.index]


def padded_batch(features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad utterances to the longest.

    Args:
        features: (F, T) float32 of each.

    Returns:
        features (B, F, T), padded with 0, and lengths (B,) in frames.
    """
    lengths = np.array([each.shape[1] for each in features], np.int32)
    padded = np.zeros((len(features), features[0].shape[0], int(lengths.max())), np.float32)
    for row, each in zip(padded, features):
        row[:, : each.shape[1]] = each
    return padded, lengths
