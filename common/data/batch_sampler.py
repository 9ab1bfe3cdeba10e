"""The plan of an epoch: which utterances are in which batch, in which order, padded to what.

All functions are pure: exact resume and distributed training rely on every process computing the
same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.utils.errors import UserError

Shape = tuple[int, int]  # (frames, labels) that a batch is padded to
PaddedIndices = tuple[np.ndarray, Shape]  # utterances of one batch, and what they are padded to

# Lengths are varied by up to this share before sorting, so that neighbours differ each epoch.
LENGTH_JITTER = 0.05
FRAME_MULTIPLE = 8  # static frame counts are multiples of so many feature frames


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of one rank. Rows past the first `valid` are repeats that count nowhere.

    Attributes:
        indices: Indices of the rows in the dataset.
        frames: Feature frames that rows are padded to, at least.
        labels: Labels that rows are padded to.
        valid: Rows that count; 0 where a rank only keeps step with the others.
    """

    indices: tuple[int, ...]
    frames: int
    labels: int
    valid: int


def plan_epoch(
    frames: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    shapes: Sequence[Shape] | None = None,
    shuffle: bool = True,
) -> list[PlannedBatch]:
    """Plan the batches of one rank in one epoch, in the order they are trained.

    Over all ranks every utterance is a valid row exactly once, and a batch holds utterances of
    similar length. The number of batches is the same in every epoch and on every rank. In each
    step the batches of all ranks are similar in length, so that no rank waits long for another.

    Epoch 0 goes from short to long (SortaGrad, Amodei et al. 2016, arXiv 1512.02595, section 3.2);
    so does every epoch without `shuffle`. In later epochs, (seed, epoch) determines which
    utterances share a batch and the order of the batches.

    Args:
        frames: (N,) feature frames of each utterance.
        labels: (N,) labels of each utterance.
        batch_size: Rows of a batch of one rank.
        seed: Of the shuffling.
        epoch: Counted from 0.
        rank: The rank whose batches to return.
        world_size: Number of ranks.
        shapes: Static shapes: each utterance goes to the smallest that holds it, and a batch is
            always `batch_size` rows of one shape. None: pad to the longest utterance.
        shuffle: Whether later epochs are shuffled.

    Returns:
        The batches.

    Raises:
        UserError: An utterance fits none of `shapes`, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    frames, labels = np.asarray(frames), np.asarray(labels)
    rng = np.random.default_rng((seed, epoch)) if shuffle and epoch > 0 else None

    if shapes is None:
        batches = _similar_lengths(frames, labels, batch_size, rng)
    else:
        batches = _same_shape(frames, labels, batch_size, shapes, rng)

    steps = -(-len(batches) // world_size)
    plan = []
    for step in range(steps) if rng is None else rng.permutation(steps):
        number = step * world_size + rank
        rows, (max_frames, max_labels) = batches[min(number, len(batches) - 1)]
        valid = len(rows) if number < len(batches) else 0
        if shapes is not None:
            rows = np.resize(rows, batch_size)  # fills up with repeats
        plan.append(PlannedBatch(tuple(rows.tolist()), int(max_frames), int(max_labels), valid))
    return plan


def static_shapes(
    frames: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    count: int,
    pad_align: int = 1,
    slowest: float = 1.0,
) -> list[Shape]:
    """Choose shapes (frames, labels) that hold every utterance with the least padding.

    The frame counts are the multiples of 8 and of `pad_align` that minimise the padded frames
    (dynamic programming over where to cut the sorted lengths); each shape holds the labels of all
    utterances that are no longer.

    Args:
        frames: (N,) feature frames of each utterance.
        labels: (N,) labels of each utterance.
        count: Number of shapes, at most.
        pad_align: Frame counts are multiples of this.
        slowest: The lowest speed of augmentation; below 1, one more shape is added that holds the
            longest utterance at this speed.

    Returns:
        The shapes, ascending.
    """
    frames, labels = np.asarray(frames), np.asarray(labels)
    rounded = aligned(frames, math.lcm(FRAME_MULTIPLE, pad_align))
    sizes, members = np.unique(rounded, return_counts=True)
    if not len(sizes):
        return []
    below = np.concatenate(([0], np.cumsum(members)))
    # cost[i, j]: frames of one shape that serves sizes i..j
    cost = np.triu((below[None, 1:] - below[:-1, None]) * sizes[None, :]).astype(float)
    cost[np.tril_indices(len(sizes), -1)] = np.inf

    best = cost[0]  # best[j]: least frames for sizes 0..j with the shapes so far
    cuts = []
    for _ in range(min(count, len(sizes)) - 1):
        totals = np.concatenate(([0], best[:-1]))[:, None] + cost
        cuts.append(totals.argmin(axis=0))
        best = totals.min(axis=0)

    ends = [len(sizes) - 1]  # the largest size of each shape, from the last shape back
    for cut in reversed(cuts):
        start = cut[ends[-1]]
        if start == 0:
            break
        ends.append(start - 1)
    limits = sizes[ends[::-1]].tolist()
    shapes = [(limit, int(labels[rounded <= limit].max())) for limit in limits]
    if slowest < 1:
        slow = aligned(math.ceil(frames.max() / slowest), math.lcm(FRAME_MULTIPLE, pad_align))
        if slow > shapes[-1][0]:
            shapes.append((slow, shapes[-1][1]))
    return shapes


def aligned(frames: Any, multiple: int) -> Any:
    """Round numbers of frames up to a multiple.

    Args:
        frames: An int or an array.
        multiple: What they become multiples of.

    Returns:
        The same kind as `frames`.
    """
    return -(-frames // multiple) * multiple


def split(
    plan: Sequence[PlannedBatch],
    frames: Sequence[int] | np.ndarray,
    most: int,
    static: bool = False,
) -> list[PlannedBatch]:
    """Split batches so that each has at most `most` padded frames.

    Args:
        plan: The batches.
        frames: (N,) feature frames of each utterance.
        most: Padded frames of a batch; a longer utterance is a batch of its own.
        static: Batches keep their frames, and those of one shape have equally many rows, the last
            ones repeats; batches of nothing but repeats are left out.

    Returns:
        The same utterances in the same order.
    """
    parts = []
    for batch in plan:
        rows = min(max(1, most // max(batch.frames, 1)), len(batch.indices))
        for start in range(0, batch.valid if static else len(batch.indices), rows):
            indices = batch.indices[start : start + rows]
            longest = int(max(frames[index] for index in indices))
            valid = int(np.clip(batch.valid - start, 0, len(indices)))
            if static:
                indices, longest = tuple(np.resize(indices, rows).tolist()), batch.frames
            parts.append(PlannedBatch(indices, longest, batch.labels, valid))
    return parts


def padded_share(plan: Sequence[PlannedBatch], frames: Sequence[int] | np.ndarray) -> float:
    """Return the share of all planned frames that is padding or repeats.

    Args:
        plan: The batches.
        frames: (N,) feature frames of each utterance.
    """
    frames = np.asarray(frames)
    planned = sum(len(batch.indices) * batch.frames for batch in plan)
    spoken = sum(int(frames[list(batch.indices[: batch.valid])].sum()) for batch in plan)
    return 1 - spoken / planned if planned else 0.0


def _similar_lengths(
    frames: np.ndarray, labels: np.ndarray, batch_size: int, rng: np.random.Generator | None
) -> list[PaddedIndices]:
    """Cut batches from the utterances in order of length, which `rng` varies a little."""
    sort_lengths = frames
    if rng is not None:
        sort_lengths = frames * (1 + rng.uniform(-LENGTH_JITTER, LENGTH_JITTER, len(frames)))
    order = np.lexsort((labels, sort_lengths))
    batches = _slices(order, batch_size)
    return [(batch, (frames[batch].max(), labels[batch].max())) for batch in batches]


def _same_shape(
    frames: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    shapes: Sequence[Shape],
    rng: np.random.Generator | None,
) -> list[PaddedIndices]:
    """Cut batches from the utterances of each shape, which `rng` shuffles."""
    order = np.lexsort((labels, frames)) if rng is None else rng.permutation(len(frames))
    shapes = sorted(shapes)
    shape_of = np.full(len(frames), len(shapes))  # number of each utterance's shape
    for number, (max_frames, max_labels) in reversed(list(enumerate(shapes))):
        shape_of[(frames <= max_frames) & (labels <= max_labels)] = number
    if (too_large := np.flatnonzero(shape_of == len(shapes))).size:
        first = too_large[0]
        raise UserError(
            f"{len(too_large)} of {len(frames)} utterances fit none of the static shapes "
            f"(frames, labels) {shapes}: number {first} has {frames[first]} frames and "
            f"{labels[first]} labels; add a shape that holds it or leave it out by max_duration"
        )
    return [
        (batch, shape)
        for number, shape in enumerate(shapes)
        for batch in _slices(order[shape_of[order] == number], batch_size)
    ]


def _slices(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
