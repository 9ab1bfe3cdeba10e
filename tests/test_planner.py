"""What an epoch is made of, where utterances have several recordings and where they have one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from common.data.batch_sampler import plan_epoch, static_shapes
from common.data.dataset import Dataset, Entry
from common.training.epoch_plan import EpochPlan, select_training_examples

SPEEDS = (0.9, 1.1)


class Listed(Dataset):
    """Entries without recordings."""

    store = "audio"

    def read(self, indices: Iterable[int]):
        raise NotImplementedError


def entries(count: int, copies: bool = True) -> list[Entry]:
    """`count` utterances of 0.5 to 3.5 s; every third has no copies, the others one for a speed."""
    rng = np.random.default_rng(count)
    found = []
    for number in range(count):
        duration, labels = float(rng.uniform(0.5, 3.5)), int(rng.integers(1, 20))
        for speed in (1.0, *(SPEEDS if copies and number % 3 else ())):
            lasts = duration / speed
            name, copy_of = (
                (f"u{number}", "") if speed == 1 else (f"u{number}x{speed}", f"u{number}")
            )
            found.append(Entry(name, "A", lasts, round(100 * lasts), labels, labels, copy_of))
    # Copies lie anywhere: elsewhere in a shard, or before what they are copies of.
    return [found[index] for index in rng.permutation(len(found))]


def speech_model(static: bool = False, **data) -> SimpleNamespace:
    values = {
        "batch_size": 4,
        "static_shapes": 3,
        "pad_align": 1,
        "min_duration": 0.1,
        "max_duration": 35.0,
        "max_hours": 0.0,
        "max_utterances": 0,
        "ignore_offline_speed_perturbation": False,
    }
    training = SimpleNamespace(seed=3, accumulation_step=1)
    config = SimpleNamespace(DataConfig=SimpleNamespace(**values | data), TrainingConfig=training)
    return SimpleNamespace(
        config=config, static_training=static, output_frames=lambda frames: frames // 2
    )


def chosen(planner: EpochPlan, epoch: int) -> list[int]:
    plans = [planner.plan(epoch, rank) for rank in range(planner.ranks)]
    return [i for plan in plans for batch in plan for i in batch.indices[: batch.valid]]


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("static", [False, True])
def test_an_epoch_has_one_recording_of_each_utterance_another_each_time(static, ranks):
    source = Listed(entries(50))
    planner = EpochPlan(speech_model(static), source, ranks=ranks)
    spoken = [entry.copy_of or entry.id for entry in source.entries]
    drawn, several = Counter(), {name for name in spoken if spoken.count(name) > 1}
    assert (planner.utterances, len(several)) == (50, 33)
    for epoch in range(60):
        indices = chosen(planner, epoch)
        assert sorted(spoken[i] for i in indices) == sorted(set(spoken))
        drawn.update(source.ids[i][-3:] for i in indices if spoken[i] in several and i < 1000)
        assert len(planner.plan(epoch)) == len(planner)
        for batch in planner.plan(epoch):
            assert batch.frames >= max(source.frames[list(batch.indices)])
            assert batch.labels >= max(source.label_counts[list(batch.indices)])
        # A resumed run has a new planner, which goes on as the old one.
        assert planner.plan(epoch) == EpochPlan(speech_model(static), source, ranks=ranks).plan(
            epoch
        )
    shares = [drawn[f"{speed}"] / (60 * 33) for speed in SPEEDS]
    assert shares == pytest.approx([1 / 3, 1 / 3], abs=0.04)  # 3.8 deviations
    other = EpochPlan(speech_model(static), source, ranks=ranks)
    other.versions.seed = 4
    assert set(chosen(other, 5)) != set(chosen(planner, 5))


@pytest.mark.parametrize("static", [False, True])
def test_without_copies_the_plan_is_that_of_the_utterances(static):
    source = Listed(entries(30, copies=False))
    planner = EpochPlan(speech_model(static), source)
    shapes = static_shapes(source.frames, source.label_counts, 3) if static else None
    for epoch in range(3):
        assert planner.plan(epoch) == plan_epoch(
            source.frames, source.label_counts, batch_size=4, seed=3, epoch=epoch, shapes=shapes
        )


def test_static_shapes_are_multiples_of_the_alignment():
    planner = EpochPlan(speech_model(True, pad_align=48), Listed(entries(30)))
    assert planner.shapes and all(frames % 48 == 0 for frames, _ in planner.shapes)
    planner = EpochPlan(speech_model(True, pad_align=3), Listed(entries(30)))
    assert all(frames % 24 == 0 for frames, _ in planner.shapes)


def test_one_static_shape_more_holds_the_longest_at_the_slowest_speed():
    source = Listed(entries(30))
    plain, slow = (EpochPlan(speech_model(True), source, slowest=speed) for speed in (1.0, 0.8))
    assert slow.shapes[:-1] == plain.shapes
    assert 0 <= slow.shapes[-1][0] - source.frames.max() / 0.8 < 9
    assert slow.shapes[-1][1] == source.label_counts.max()
    assert slow.plan(0) == plain.plan(0)
    hardly = EpochPlan(speech_model(True, pad_align=4096), source, slowest=0.99)
    assert [frames for frames, _ in hardly.shapes] == [4096]


def names(source: Dataset) -> list[str]:
    return [entry.copy_of or entry.id for entry in source.entries]


def test_a_part_is_of_utterances_with_all_their_recordings():
    whole, log = Listed(entries(40)), logging.getLogger("planned")
    part = select_training_examples(speech_model(max_utterances=7), whole, log)
    assert len(set(names(part))) == 7
    assert Counter(names(part)) == {n: names(whole).count(n) for n in names(part)}
    # Those that are too long go by themselves, and the other recordings stay.
    longest = max(e.duration for e in whole.entries if f"{e.id}x1.1" in whole.ids) - 0.01
    limited = select_training_examples(speech_model(max_duration=longest), whole, log)
    assert set(limited.ids) == {e.id for e in whole.entries if e.duration <= longest} & {
        e.id for e in whole.entries if e.frames // 2 >= e.ctc_frames
    }
    assert any(entry.copy_of and entry.copy_of not in limited.ids for entry in limited.entries)
    assert EpochPlan(speech_model(), limited).utterances == len(set(names(limited)))


def test_copies_can_be_ignored():
    whole = Listed(entries(40))
    without = select_training_examples(
        speech_model(ignore_offline_speed_perturbation=True), whole, logging.getLogger("planned")
    )
    assert len(without) == 40 and not any(entry.copy_of for entry in without.entries)
