"""The plan of an epoch: which utterances, in which order, in which batch, padded to what.

Everything here is a pure function of its arguments, numbers in and numbers out: exact resume and
distributed training both rest on every process computing the same plan again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.utils.errors import UserError

Shape = tuple[int, int]  # (frames, labels) that a batch is padded to
Cut = tuple[np.ndarray, Shape]  # the utterances of one batch, and what they are padded to

# Lengths are blurred by up to this share before sorting, so that neighbours differ each epoch.
LENGTH_JITTER = 0.05
# Static frame counts are multiples of this many feature frames.
FRAME_MULTIPLE = 8


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of one rank. Rows past the first `valid` are repeats: computed, counted nowhere."""

    indices: tuple[int, ...]  # utterances, a row each
    frames: int  # feature frames to pad to, or to a multiple or the next static shape from there on
    labels: int  # labels to pad to
    valid: int  # rows that count; 0 where a rank only keeps step with the others


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
    """The batches of one rank in one epoch (counted from 0), in the order they are trained.

    `frames` and `labels` (N,) hold each utterance's feature frames and label count; `batch_size`
    is each rank's own. Over all ranks every utterance is a valid row exactly once, none is cut, and
    a batch holds utterances of similar length. The number of batches is the same in every epoch and
    on every rank. The ranks' batches of one step are neighbours in length, so that no rank waits
    long for another.

    Epoch 0 goes from short to long (SortaGrad, Amodei et al. 2016, arXiv 1512.02595, section 3.2);
    so does every epoch without `shuffle`. Later epochs draw from (seed, epoch) who shares a batch
    with whom and the order of the batches.

    `shapes=None` pads a batch to its longest utterance. Given `shapes`, each utterance goes to the
    smallest that holds it, and a batch is always `batch_size` rows of one of the shapes.

    Raises UserError where an utterance fits none of `shapes`.
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
        rows, (most_frames, most_labels) = batches[min(number, len(batches) - 1)]
        valid = len(rows) if number < len(batches) else 0
        if shapes is not None:
            rows = np.resize(rows, batch_size)  # fills up with repeats
        plan.append(PlannedBatch(tuple(rows.tolist()), int(most_frames), int(most_labels), valid))
    return plan


def static_shapes(
    frames: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    count: int,
    pad_align: int = 1,
    slowest: float = 1.0,
) -> list[Shape]:
    """At most `count` shapes (frames, labels) that hold every utterance with the least padding,
    and, where another speed makes utterances longer, one that holds the longest at the `slowest`.

    The frame counts are the multiples of 8 and of `pad_align` that minimise the padded frames
    (dynamic programming over where to cut the sorted lengths); each shape holds the labels of all
    that are no longer.
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
    """The next multiple from `frames` (an int or an array) on."""
    return -(-frames // multiple) * multiple


def split(
    plan: Sequence[PlannedBatch],
    frames: Sequence[int] | np.ndarray,
    most: int,
    static: bool = False,
) -> list[PlannedBatch]:
    """The same utterances in the same order, in batches of at most `most` padded frames.

    An utterance that is longer by itself makes a batch of its own. `frames` (N,) as in
    `plan_epoch`. static: batches keep their frames, and those of one shape have equally many rows,
    the last ones repeats; what holds nothing but repeats is left out.
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
    """The share of all planned frames that is padding or repeats; `frames` as in `plan_epoch`."""
    frames = np.asarray(frames)
    planned = sum(len(batch.indices) * batch.frames for batch in plan)
    spoken = sum(int(frames[list(batch.indices[: batch.valid])].sum()) for batch in plan)
    return 1 - spoken / planned if planned else 0.0


def _similar_lengths(
    frames: np.ndarray, labels: np.ndarray, batch_size: int, rng: np.random.Generator | None
) -> list[Cut]:
    """Batches cut from the utterances in order of length, blurred by `rng`."""
    blurred = frames
    if rng is not None:
        blurred = frames * (1 + rng.uniform(-LENGTH_JITTER, LENGTH_JITTER, len(frames)))
    order = np.lexsort((labels, blurred))
    batches = _slices(order, batch_size)
    return [(batch, (frames[batch].max(), labels[batch].max())) for batch in batches]


def _same_shape(
    frames: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    shapes: Sequence[Shape],
    rng: np.random.Generator | None,
) -> list[Cut]:
    """Batches cut from the utterances of one shape after the other, shuffled by `rng` within it."""
    order = np.lexsort((labels, frames)) if rng is None else rng.permutation(len(frames))
    shapes = sorted(shapes)
    homes = np.full(len(frames), len(shapes))
    for home, (most_frames, most_labels) in reversed(list(enumerate(shapes))):
        homes[(frames <= most_frames) & (labels <= most_labels)] = home
    if (homeless := np.flatnonzero(homes == len(shapes))).size:
        first = homeless[0]
        raise UserError(
            f"{len(homeless)} of {len(frames)} utterances fit none of the static shapes "
            f"(frames, labels) {shapes}: number {first} has {frames[first]} frames and "
            f"{labels[first]} labels; add a shape that holds it or leave it out by max_duration"
        )
    return [
        (batch, shape)
        for home, shape in enumerate(shapes)
        for batch in _slices(order[homes[order] == home], batch_size)
    ]


def _slices(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
