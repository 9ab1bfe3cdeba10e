"""Properties of the plan over many random corpora."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from common.data.batch_sampler import padded_share, plan_epoch, split, static_shapes
from common.utils.errors import UserError


def test_split_keeps_order_and_bounds_the_padded_frames():
    frames, labels = [10, 20, 30, 40, 95, 400], [1, 2, 3, 4, 5, 6]
    plan = plan_epoch(frames, labels, batch_size=4, shuffle=False)
    parts = split(plan, frames, 100)
    assert [i for part in parts for i in part.indices] == [0, 1, 2, 3, 4, 5]
    assert sum(part.valid for part in parts) == 6
    for part in parts:
        assert part.frames == max(frames[i] for i in part.indices)
        assert len(part.indices) * part.frames <= 100 or len(part.indices) == 1


def test_static_batches_are_split_into_equally_many_rows_of_a_shape():
    frames, labels = [10, 10, 10, 40, 40, 95, 400], [1] * 7
    shapes = [(16, 1), (48, 1), (400, 1)]
    plan = plan_epoch(frames, labels, batch_size=4, shapes=shapes, shuffle=False)
    assert [(batch.frames, len(batch.indices)) for batch in plan] == [(16, 4), (48, 4), (400, 4)]
    found = [
        (part.indices, part.frames, part.valid) for part in split(plan, frames, 100, static=True)
    ]
    assert found == [
        ((0, 1, 2, 0), 16, 3),
        ((3, 4), 48, 2),
        ((5,), 400, 1),
        ((6,), 400, 1),
    ]
    found = [(part.indices, part.valid) for part in split(plan, frames, 32, static=True)]
    assert found[:2] == [((0, 1), 2), ((2, 0), 1)]  # as many rows as before, one of them a repeat


def random_corpus(seed: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """frames, labels and plan settings: any size, few or many ties, one rank or several."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 120))
    frames = rng.integers(20, rng.choice([25, 400, 3000]), count)
    labels = np.maximum(1, frames // rng.integers(5, 12, count))
    settings = {
        "batch_size": int(rng.integers(1, 17)),
        "world_size": int(rng.integers(1, 5)),
        "seed": int(rng.integers(100)),
    }
    if rng.random() < 0.5:
        settings["shapes"] = static_shapes(frames, labels, int(rng.integers(1, 6)))
    return frames, labels, settings


def all_ranks(frames, labels, settings, **more):
    ranks = range(settings["world_size"])
    return [plan_epoch(frames, labels, rank=rank, **settings, **more) for rank in ranks]


@pytest.mark.parametrize("seed", range(60))
def test_every_utterance_is_planned_once_and_all_ranks_have_equally_many_batches(seed):
    frames, labels, settings = random_corpus(seed)
    shapes, batch_size = settings.get("shapes"), settings["batch_size"]
    counts = set()
    for epoch in (0, 1, 7):
        for shuffle in (True, False):
            plans = all_ranks(frames, labels, settings, epoch=epoch, shuffle=shuffle)
            counts |= {len(plan) for plan in plans}
            batches = [batch for plan in plans for batch in plan]
            seen = Counter(i for batch in batches for i in batch.indices[: batch.valid])
            assert seen == Counter(range(len(frames)))
            for batch in batches:
                rows = list(batch.indices)
                assert 0 <= batch.valid <= len(rows) <= batch_size
                assert frames[rows].max() <= batch.frames and labels[rows].max() <= batch.labels
                if shapes:
                    assert (batch.frames, batch.labels) in shapes and len(rows) == batch_size
                else:
                    assert batch.frames == frames[rows].max() and batch.labels == labels[rows].max()
                    assert batch.valid in (0, len(rows))
            idle = sum(batch.valid == 0 for batch in batches)
            assert idle < settings["world_size"]
    assert len(counts) == 1  # on every rank, in every epoch


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_a_pure_function(seed):
    frames, labels, settings = random_corpus(seed)
    before = frames.copy()
    np.random.seed(seed)
    first = plan_epoch(frames, labels, epoch=3, **settings)
    np.random.seed(seed + 1)
    assert plan_epoch(frames.tolist(), labels.tolist(), epoch=3, **settings) == first
    assert (frames == before).all()


@pytest.mark.parametrize("seed", range(20))
def test_epoch_0_and_evaluation_go_from_short_to_long(seed):
    frames, labels, settings = random_corpus(seed)
    settings |= {"world_size": 1}
    first = plan_epoch(frames, labels, epoch=0, **settings)
    spoken = [frames[i] for batch in first for i in batch.indices[: batch.valid]]
    if "shapes" not in settings:
        assert spoken == sorted(frames)
    assert [batch.frames for batch in first] == sorted(batch.frames for batch in first)
    assert plan_epoch(frames, labels, epoch=5, shuffle=False, **settings) == first


@pytest.mark.parametrize("static", [False, True])
def test_later_epochs_differ_in_order_and_neighbours(static):
    rng = np.random.default_rng(0)
    frames = rng.integers(100, 1500, 1000)
    labels = frames // 8
    shapes = static_shapes(frames, labels, 4) if static else None
    plans = [plan_epoch(frames, labels, batch_size=8, epoch=e, shapes=shapes) for e in range(3)]
    neighbours = [{frozenset(batch.indices) for batch in plan} for plan in plans]
    for one, other in ((0, 1), (1, 2)):
        assert len(neighbours[one] & neighbours[other]) < len(plans[0]) / 10
    assert [b.frames for b in plans[1]] != [b.frames for b in plans[2]]
    by_seed = plan_epoch(frames, labels, batch_size=8, epoch=1, seed=1, shapes=shapes)
    assert by_seed != plans[1]


def test_similar_lengths_save_padding():
    rng = np.random.default_rng(0)
    frames = rng.gamma(5, 150, 2000).astype(int) + 50
    labels = frames // 8
    shuffled = rng.permutation(2000).reshape(-1, 16)
    random_share = 1 - frames.sum() / (frames[shuffled].max(axis=1) * 16).sum()
    assert random_share > 0.4
    for epoch, most in ((0, 0.01), (1, 0.06)):
        plan = plan_epoch(frames, labels, batch_size=16, epoch=epoch)
        assert padded_share(plan, frames) < most
    static = plan_epoch(
        frames, labels, batch_size=16, epoch=1, shapes=static_shapes(frames, labels, 8)
    )
    assert padded_share(static, frames) < 0.16


@pytest.mark.parametrize("epoch", [0, 4])
@pytest.mark.parametrize("count", [None, 6])
def test_ranks_get_similar_lengths_at_the_same_step(epoch, count):
    rng = np.random.default_rng(3)
    frames = rng.integers(100, 3000, 4096)
    shapes = static_shapes(frames, frames // 8, count) if count else None
    settings = {"batch_size": 8, "world_size": 4, "shapes": shapes}
    steps = list(zip(*all_ranks(frames, frames // 8, settings, epoch=epoch)))
    alike = [max(b.frames for b in step) / min(b.frames for b in step) < 1.15 for step in steps]
    # a step may lie across the border of two static shapes, or at the ragged short end
    assert sum(alike) >= len(steps) - (count or 5)


def test_padded_share_agrees_with_a_count_by_hand():
    plan = plan_epoch([10, 20, 40], [1, 1, 1], batch_size=2)
    assert [batch.indices for batch in plan] == [(0, 1), (2,)]
    assert padded_share(plan, [10, 20, 40]) == pytest.approx(1 - 70 / 80)
    static = plan_epoch([10, 20, 40], [1, 1, 1], batch_size=2, shapes=[(40, 2)])
    assert [(batch.indices, batch.valid) for batch in static] == [((0, 1), 2), ((2, 2), 1)]
    assert padded_share(static, [10, 20, 40]) == pytest.approx(1 - 70 / 160)
    assert padded_share([], []) == 0.0


def test_the_smallest_shape_that_holds_frames_and_labels():
    shapes = [(200, 50), (100, 10), (100, 30)]
    plan = plan_epoch([90, 90, 90, 150], [5, 20, 40, 5], batch_size=1, shapes=shapes)
    fitted = {batch.indices[0]: (batch.frames, batch.labels) for batch in plan}
    assert fitted == {0: (100, 10), 1: (100, 30), 2: (200, 50), 3: (200, 50)}


def test_an_utterance_that_fits_no_shape_is_named_with_its_size():
    with pytest.raises(UserError, match="1 of 2 utterances.*number 1 has 300 frames and 7 labels"):
        plan_epoch([90, 300], [5, 7], batch_size=1, shapes=[(200, 50)])


@pytest.mark.parametrize("seed", range(30))
def test_static_shapes_pad_no_more_than_any_other_choice(seed):
    rng = np.random.default_rng(seed)
    frames = rng.integers(1, 90, int(rng.integers(1, 40)))
    labels = rng.integers(0, 30, len(frames))
    count = int(rng.integers(1, 5))
    shapes = static_shapes(frames, labels, count)
    assert 1 <= len(shapes) <= count
    assert all(limit % 8 == 0 for limit, _ in shapes)

    def cost(limits) -> int:
        return sum(min(limit for limit in limits if limit >= f) for f in frames)

    for f, n in zip(frames, labels):
        fit = min(shape for shape in shapes if shape[0] >= f and shape[1] >= n)
        assert fit[0] == min(limit for limit, _ in shapes if limit >= f)
    longest = -(-frames.max() // 8) * 8
    others = combinations(range(8, longest, 8), min(count - 1, (longest - 8) // 8))
    assert cost([limit for limit, _ in shapes]) == min(cost([*c, longest]) for c in others)


def test_an_empty_corpus_has_an_empty_plan():
    assert plan_epoch([], [], batch_size=4) == []
    assert static_shapes([], [], 4) == []


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="batch_size is 0"):
        plan_epoch([1], [1], batch_size=0)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        plan_epoch([1], [1], batch_size=1, rank=2, world_size=2)
