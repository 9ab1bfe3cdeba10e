"""Batches: what is in them, value by value, and how they are made ahead."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile as sf
import soxr

from common.audio.augmentation import Augmentation
from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import load_audio
from common.data.batch_sampler import PlannedBatch, plan_epoch, static_shapes
from common.data.dataset import ManifestDataset
from common.data.loader import Batch, batches
from common.data.manifest import Utterance
from common.data.mindrecord import convert, open_dataset
from common.data.validation import validate
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

RATE = 16000
VOCABULARY = CharacterTokenizer(tuple("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"))
FEATURIZER = Featurizer(FeatureConfig(kind="logmel", bands=8))
TEXTS = ("'A", "BC", "DEF", "G", "HIJKL", "MN")
FRAMES = [26 + 10 * number for number in range(6)]
SLOWER = Augmentation(speed_volume_perturb=True, speed_min=0.8, speed_max=0.8)
FASTER = Augmentation(speed_volume_perturb=True, speed_min=1.25, speed_max=1.25)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Six recordings of noise, 26, 36, ... 76 frames long."""
    made = []
    for number, text in enumerate(TEXTS):
        path = tmp_path / f"{number}.wav"
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 4000 + 1600 * number)
        sf.write(path, noise, RATE, subtype="PCM_16")
        made.append(Utterance(f"u{number}", path, text))
    return made


@pytest.fixture
def source(utterances) -> ManifestDataset:
    return ManifestDataset(utterances, FEATURIZER, VOCABULARY)


def planned(*indices: int, valid: int | None = None, frames: int = 0, labels: int = 5):
    frames = frames or max(FRAMES[index] for index in indices)
    return PlannedBatch(indices, frames, labels, len(indices) if valid is None else valid)


def features_of(utterance: Utterance) -> np.ndarray:
    return FEATURIZER(load_audio(utterance.audio, RATE))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.ids, a.indices, a.valid, a.seconds) == (b.ids, b.indices, b.valid, b.seconds)
        for name in ("features", "lengths", "targets", "target_lengths"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_dynamic_batch_is_padded_to_its_longest_row(source, utterances):
    first, second = batches(source, [planned(3, 0), planned(4, labels=7)], FEATURIZER)
    assert first.features.shape == (2, 8, 56)
    assert first.features.dtype == np.float32
    assert first.frames == 56
    np.testing.assert_array_equal(first.features[0], features_of(utterances[3]))
    np.testing.assert_array_equal(first.features[1, :, :26], features_of(utterances[0]))
    assert not first.features[1, :, 26:].any()
    assert first.lengths.tolist() == [56, 26]
    assert first.targets.tolist() == [[7, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert first.target_lengths.tolist() == [1, 2]
    for array in (first.lengths, first.targets, first.target_lengths):
        assert array.dtype == np.int32
    assert (first.indices, first.ids, first.valid) == ((3, 0), ("u3", "u0"), 2)
    assert first.seconds == pytest.approx((8800 + 4000) / RATE)
    assert second.targets.tolist() == [[8, 9, 10, 11, 12, 0, 0]]


def test_a_static_batch_is_padded_as_planned_and_its_repeats_are_not_counted(source):
    plan = [planned(1, 0, 1, 1, valid=2, frames=64, labels=9)]
    (batch,) = batches(source, plan, FEATURIZER, shapes=[(40, 7), (64, 9), (80, 9)])
    assert batch.features.shape == (4, 8, 64)
    assert batch.targets.shape == (4, 9)
    assert batch.lengths.tolist() == [36, 26, 36, 36]
    assert batch.valid == 2
    assert batch.seconds == pytest.approx((5600 + 4000) / RATE)
    np.testing.assert_array_equal(batch.features[0], batch.features[3])


@pytest.mark.parametrize("multiple", [1, 16, 56])
def test_a_dynamic_batch_is_padded_to_a_multiple(source, multiple):
    plan = [planned(3, 0), planned(2, 1)]
    plain = list(batches(source, plan, FEATURIZER))
    for batch, bare in zip(
        batches(source, plan, FEATURIZER, pad_align=multiple), plain, strict=True
    ):
        assert batch.frames == multiple * -(-bare.frames // multiple)
        assert batch.lengths.tolist() == bare.lengths.tolist()
        np.testing.assert_array_equal(batch.features[:, :, : bare.frames], bare.features)
        assert not batch.features[:, :, bare.frames :].any()


def test_without_labels_targets_have_one_column_of_padding(utterances):
    source = ManifestDataset(utterances, FEATURIZER, VOCABULARY, labelled=False)
    (batch,) = batches(source, [planned(0, 1, labels=0)], FEATURIZER)
    assert batch.targets.tolist() == [[0], [0]]
    assert batch.target_lengths.tolist() == [0, 0]


def test_every_utterance_of_a_planned_epoch_comes_once_in_its_order(source):
    plan = plan_epoch(source.frames, source.label_counts, batch_size=4, epoch=3)
    made = list(batches(source, plan, FEATURIZER, epoch=3))
    assert [batch.indices for batch in made] == [each.indices for each in plan]
    rows = [index for batch in made for index in batch.indices[: batch.valid]]
    assert sorted(rows) == list(range(6))


@pytest.mark.parametrize("store", ["features", "audio"])
def test_mindrecord_files_give_the_same_batches_as_the_recordings(
    source, utterances, tmp_path, store
):
    convert(
        utterances,
        tmp_path / "set",
        shards=2,
        store=store,
        featurizer=FEATURIZER,
        tokenizer=VOCABULARY,
        output_frames=lambda frames: frames,
    )
    plan = plan_epoch(source.frames, source.label_counts, batch_size=4, epoch=1)
    settings = {"augmentation": Augmentation(spec_augment=True), "epoch": 1}
    assert_same(
        list(batches(open_dataset(tmp_path / "set"), plan, FEATURIZER, **settings)),
        list(batches(source, plan, FEATURIZER, **settings)),
    )


# ---- augmentation

BOTH = Augmentation(speed_volume_perturb=True, spec_augment=True, freq_width=4)


def test_augmentation_is_fresh_each_epoch_and_the_same_when_repeated(source):
    plan = [planned(0, 1, 2), planned(3, 4, 5)]
    runs = {
        (seed, epoch): list(batches(source, plan, FEATURIZER, BOTH, seed=seed, epoch=epoch))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    lengths = {tuple(batch.lengths.tolist()) for made in runs.values() for batch in made}
    assert len(lengths) == 8
    again = batches(source, plan, FEATURIZER, BOTH, seed=1, epoch=1, workers=5, prefetch=1)
    assert_same(list(again), runs[1, 1])


def test_augmentation_depends_on_the_utterance_and_not_on_the_batch(source):
    (whole,) = batches(source, [planned(0, 1, 2)], FEATURIZER, BOTH, epoch=2)
    (alone,) = batches(source, [planned(1)], FEATURIZER, BOTH, epoch=2)
    length = alone.lengths[0]
    assert whole.lengths[1] == length
    np.testing.assert_array_equal(whole.features[1, :, :length], alone.features[0])


def test_another_speed_makes_a_dynamic_batch_longer_or_shorter(source, utterances):
    (batch,) = batches(source, [planned(2, 0)], FEATURIZER, SLOWER)
    assert batch.lengths.tolist() == [1 + 9000 // 160, 1 + 5000 // 160]
    assert batch.frames == 57
    stretched = soxr.resample(load_audio(utterances[2].audio, RATE), 0.8 * RATE, RATE, "HQ")
    # Only the volume differs, and each band's mean takes the volume out.
    np.testing.assert_allclose(batch.features[0], FEATURIZER(stretched), atol=2e-3)


def test_another_speed_takes_a_static_batch_to_the_next_shape(source):
    plan = [planned(2, 0, frames=48), planned(0, frames=48)]  # 46, 26 frames; slower 57 and 32
    shapes = [(40, 5), (48, 7), (56, 8), (64, 9), (80, 9)]
    first, second = batches(source, plan, FEATURIZER, SLOWER, shapes=shapes)
    assert (first.features.shape[2], first.targets.shape[1]) == (64, 9)
    assert (second.features.shape[2], second.targets.shape[1]) == (48, 7)  # as planned at least
    (dynamic, _) = batches(source, plan, FEATURIZER, SLOWER)
    assert first.lengths.tolist() == dynamic.lengths.tolist() == [57, 32]
    np.testing.assert_array_equal(first.features[:, :, :57], dynamic.features)


def test_an_utterance_that_fits_no_static_shape_is_not_augmented(source, utterances):
    plan = [planned(2, 0, frames=48)]  # 46 and 26 frames, 57 and 32 when slower
    (batch,) = batches(source, plan, FEATURIZER, SLOWER, shapes=[(32, 7), (48, 7)])
    assert batch.features.shape[2] == 48
    assert batch.lengths.tolist() == [46, 32]
    np.testing.assert_array_equal(batch.features[0, :, :46], features_of(utterances[2]))


@pytest.mark.parametrize("static", [False, True])
def test_an_utterance_too_short_for_its_labels_is_not_augmented(source, static):
    def output_frames(frames: int) -> int:
        return frames // 5 - 10  # of 66, 53: 3, 0; of 76, 61: 5, 2

    plan = [planned(5, 4, frames=80)]
    settings = {"output_frames": output_frames, "shapes": [(80, 7)] if static else None}
    (batch,) = batches(source, plan, FEATURIZER, FASTER, **settings)
    assert batch.lengths.tolist() == [61, 66]  # "MN" still fits, "HIJKL" would not


def test_masks_are_the_same_in_every_spliced_frame(source):
    stacked = Featurizer(replace(FEATURIZER.config, frame_splicing=3))
    masks = Augmentation(spec_augment=True, freq_width=4, cutout_masks=2, cutout_freq_min=1)
    (single,) = batches(source, [planned(5)], FEATURIZER, masks, epoch=1)
    (batch,) = batches(source, [planned(5)], stacked, masks, epoch=1)
    assert (single.features[0] == 0).any() and batch.features.shape == (1, 24, 76)
    np.testing.assert_array_equal(batch.features[0], stacked.splice(single.features[0]))


# ---- silence at the ends


@pytest.fixture
def quiet(utterances) -> list[Utterance]:
    """The recordings with half a second of silence before and 0.3 s behind; two are FLAC."""
    made = []
    for number, utterance in enumerate(utterances):
        path = utterance.audio.with_name(f"quiet{number}.{'flac' if number < 2 else 'wav'}")
        samples = load_audio(utterance.audio, RATE)
        sf.write(path, np.pad(samples, (8000, 4800)), RATE, subtype="PCM_16")
        made.append(replace(utterance, audio=path))
    return made


@pytest.mark.parametrize("store", ["features", "audio"])
@pytest.mark.parametrize("static", [False, True])
def test_recordings_and_records_are_trimmed_exactly_once(quiet, tmp_path, store, static):
    trimming = Featurizer(replace(FEATURIZER.config, trim_silence=True))
    convert(
        quiet,
        tmp_path / "set",
        shards=2,
        store=store,
        featurizer=trimming,
        tokenizer=VOCABULARY,
        output_frames=lambda frames: frames,
    )
    records, recordings = (
        open_dataset(tmp_path / "set"),
        ManifestDataset(quiet, trimming, VOCABULARY),
    )
    expected = []
    for utterance in quiet:
        samples, _ = librosa.effects.trim(load_audio(utterance.audio, RATE), top_db=60)
        assert len(samples) < sf.info(utterance.audio).frames - 8000
        expected.append(FEATURIZER(samples))
    assert records.frames.tolist() == [each.shape[1] for each in expected]
    assert (recordings.frames > records.frames).all()  # by their headers: the most
    for source in (records, recordings):
        shapes = static_shapes(source.frames, source.label_counts, 2) if static else None
        plan = plan_epoch(source.frames, source.label_counts, batch_size=4, shapes=shapes)
        for batch in batches(source, plan, trimming, shapes=shapes):
            for row in range(batch.valid):
                wanted = expected[batch.indices[row]]
                found = batch.features[row, :, : batch.lengths[row]]
                np.testing.assert_allclose(found, wanted, atol=1e-3)
                assert not batch.features[row, :, batch.lengths[row] :].any()


def test_validation_judges_trimmed_recordings(quiet, tmp_path):
    path = tmp_path / "nothing.wav"
    sf.write(path, np.zeros(RATE), RATE)
    utterances = [*quiet, Utterance("nothing", path, "NO")]
    reports = [
        validate(utterances, VOCABULARY, featurizer, lambda frames: frames, 0.1, 1.2)
        for featurizer in (FEATURIZER, Featurizer(replace(FEATURIZER.config, trim_silence=True)))
    ]
    found = [[(each.id, each.reason) for each in report.left_out] for report in reports]
    assert ("nothing", "silent") in found[0] and ("nothing", "silent") in found[1]
    assert sum(category == "too long" for _, category in found[0]) == 4
    assert len(found[1]) == 1


# ---- augmentation and its limits


def test_augmentation_starts_at_from_epoch(source):
    later = Augmentation(speed_volume_perturb=True, spec_augment=True, from_epoch=2)
    plan = [planned(0, 1)]
    plain = list(batches(source, plan, FEATURIZER, epoch=1))
    assert_same(list(batches(source, plan, FEATURIZER, later, epoch=1)), plain)
    (varied,) = batches(source, plan, FEATURIZER, later, epoch=2)
    assert varied.lengths.tolist() != plain[0].lengths.tolist()


def test_features_cannot_be_augmented_as_waveforms(source):
    source.store = "features"
    with pytest.raises(UserError, match="hold features: convert with DataConfig.store=audio"):
        batches(source, [planned(0)], FEATURIZER, Augmentation(noise_dir="noise", from_epoch=9))


# ---- threads


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_no_thread_is_left_at_the_end_or_after_closing_early(source):
    plan = [planned(index % 6) for index in range(20)]
    assert len(list(batches(source, plan, FEATURIZER))) == 20
    assert thread_names() == []
    made = batches(source, plan, FEATURIZER, workers=3)
    next(made)
    assert thread_names()
    made.close()
    assert thread_names() == []


def test_reading_mindrecord_files_can_stop_early(utterances, tmp_path):
    convert(
        utterances,
        tmp_path / "set",
        shards=1,
        featurizer=FEATURIZER,
        tokenizer=VOCABULARY,
        output_frames=lambda frames: frames,
    )
    source = open_dataset(tmp_path / "set")
    plan = [planned(index % 6) for index in range(50)]
    for _ in range(3):
        made = batches(source, plan, FEATURIZER)
        assert next(made).ids == ("u0",)
        made.close()
    assert thread_names() == []
    assert [batch.ids for batch in batches(source, plan[:2], FEATURIZER)] == [("u0",), ("u1",)]


def test_no_more_than_prefetch_batches_are_read_ahead(source, monkeypatch):
    read = source.read
    taken = []

    def counted(indices):
        for row in read(indices):
            taken.append(row.index)
            yield row

    monkeypatch.setattr(source, "read", counted)
    made = batches(source, [planned(0, 1) for _ in range(20)], FEATURIZER, prefetch=3)
    next(made)
    assert len(taken) == 2 * (1 + 3)
    next(made)
    assert len(taken) == 2 * (2 + 3)
    made.close()


def test_a_bad_recording_is_named(source, utterances):
    utterances[4].audio.unlink()
    made = batches(source, [planned(0), planned(1, 4), planned(2)], FEATURIZER)
    assert next(made).ids == ("u0",)
    with pytest.raises(UserError, match="^utterance u4: .*4.wav: No such file"):
        next(made)
    assert thread_names() == []


def test_an_internal_error_names_the_utterance_and_keeps_its_cause(source):
    class Broken(Featurizer):
        def __call__(self, samples: np.ndarray) -> np.ndarray:
            raise ZeroDivisionError("by zero")

    with pytest.raises(RuntimeError, match="utterance u3: by zero") as caught:
        list(batches(source, [planned(3)], Broken(FEATURIZER.config)))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
