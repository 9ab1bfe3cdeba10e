"""Segments of recordings: cut exactly, everywhere, and refused where they are not inside."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import soxr

from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import load_audio
from common.audio.segments import AudioSegment
from common.data.dataset import ManifestDataset
from common.data.durations import DurationNotice
from common.data.manifest import Utterance, read_manifest
from common.data.manifest_writers import WRITERS, convert_manifest, write_jsonl
from common.data.mindrecord import convert, open_dataset, other_origin
from common.data.validation import validate
from common.export.offline_inference import write_features
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

RATE = 8000
TOKENIZER = CharacterTokenizer(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ _"))
FEATURIZER = Featurizer(FeatureConfig(kind="logmel", bands=8, sample_rate=RATE))
# Seconds. The second and third do not fall on samples.
PARTS = ((0.0, 1.0), (0.99997, 0.73333), (1.7333, 0.6), (2.5, None))
TEXTS = ("ONE", "TWO", "THREE", "FOUR")


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(N, channels): a tone that rises, and noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (len(time), channels))
    return 0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time)[:, None] + noise


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A recording of 3 s."""
    path = tmp_path / "talk.wav"
    sf.write(path, sound(3.0, RATE), RATE, subtype="PCM_16")
    return path


@pytest.fixture
def manifest(talk: Path) -> Path:
    """Four segments of it, as NeMo lists them."""
    path = talk.with_name("talk.jsonl")
    lines = [
        {"audio_filepath": talk.name, "offset": offset, "duration": duration, "text": text}
        for (offset, duration), text in zip(PARTS, TEXTS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def cut(path: Path, offset: float, duration: float | None) -> np.ndarray:
    """The samples of a segment, from those of the whole recording."""
    with sf.SoundFile(path) as file:
        rate, samples = file.samplerate, file.read(file.frames, "float32", always_2d=True)
    end = len(samples) if duration is None else round((offset + duration) * rate)
    return samples[round(offset * rate) : end].mean(axis=1)


# ---- reading


@pytest.mark.parametrize(
    ("container", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 8000, 2),
        ("WAV", "FLOAT", 44100, 1),
        ("WAV", "IMA_ADPCM", 8000, 1),
        ("WAV", "GSM610", 8000, 1),  # cannot seek
        ("FLAC", "PCM_16", 22050, 2),
        ("NIST", "PCM_16", 16000, 1),
        ("OGG", "VORBIS", 16000, 2),
        ("OGG", "OPUS", 48000, 1),
        ("MP3", "MPEG_LAYER_III", 16000, 2),  # seeks, but to samples that differ in the last bits
    ],
)
def test_a_segment_is_that_part_of_the_decoded_recording(
    tmp_path, container, subtype, rate, channels
):
    path = tmp_path / "talk"
    sf.write(path, sound(3.0, rate, channels), rate, format=container, subtype=subtype)
    decoded = load_audio(path, rate)
    for offset, duration in PARTS:
        segment = AudioSegment(path, offset, duration)
        expected = cut(path, offset, duration)
        samples = segment.load(rate)
        first = round(offset * rate)
        assert samples.dtype == np.float32 and len(samples) == len(expected) > 0
        np.testing.assert_array_equal(samples, decoded[first : first + len(expected)])
        np.testing.assert_allclose(samples, expected, atol=2e-7)  # rounding of MP3's decoder
        assert segment.info().samples == len(expected)
        resampled = soxr.resample(expected, rate, 12000, "HQ")
        np.testing.assert_allclose(segment.load(12000), resampled, atol=1e-6)
    np.testing.assert_array_equal(AudioSegment(path).load(rate), decoded)


def test_a_segment_outside_its_recording_is_refused_with_all_figures(talk):
    for offset, duration, words in (
        (2.5, 0.75, "from 2.5 s, 0.75 s long"),
        (3.0, 1.0, "from 3 s, 1 s long"),
        (3.0, None, "from 3 s, to its end"),
        (9.0, None, "from 9 s, to its end"),
        (1e308, 1e308, "from 1e+308 s, 1e+308 s long"),
    ):
        for read in (AudioSegment.info, lambda segment: segment.load(RATE)):
            with pytest.raises(UserError) as refused:
                read(AudioSegment(talk, offset, duration))
            assert str(refused.value) == (
                f"audio file {talk}: the segment {words}, is not inside the recording, which is "
                "3.00 s long; correct offset and duration in the manifest, or leave it out"
            )
    # Figures are rounded: 3.0004 s becomes 3.00 s.
    rounded = AudioSegment(talk, 2.5, 0.51)
    np.testing.assert_array_equal(rounded.load(RATE), cut(talk, 2.5, None))
    # ffprobe counts the delay of an MP3's encoder: 3.168 s for 3 s at 8 kHz.
    np.testing.assert_array_equal(AudioSegment(talk, 0.0, 3.168).load(RATE), cut(talk, 0.0, None))


# ---- manifests


def test_segments_of_one_recording_have_ids_of_their_own(manifest, talk):
    utterances = read_manifest(manifest)
    assert [u.id for u in utterances] == ["talk_0s", "talk_1s", "talk_1.733s", "talk_2.5s"]
    assert [(u.offset, u.duration) for u in utterances] == list(PARTS)
    assert {u.audio for u in utterances} == {talk}
    assert utterances[1].segment == AudioSegment(talk, *PARTS[1])
    # Without an offset, the duration only describes the recording.
    whole = Utterance("a", talk, "A", duration=1.0)
    assert whole.segment == AudioSegment(talk)


def test_a_segment_of_any_format_is_read(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("path,offset,duration,sentence\na.wav,1.5,2,A\na.wav,,2,B\na.wav,0,,C\n")
    assert [(u.offset, u.duration) for u in read_manifest(table)] == [
        (1.5, 2),
        (None, 2),
        (0, None),
    ]
    listed = tmp_path / "m.json"
    files = [{"fname": "a.wav", "offset": 1.5, "duration": 2, "speed": 1.0}]
    listed.write_text(json.dumps([{"transcript": "A", "files": files}]))
    assert [(u.offset, u.duration) for u in read_manifest(listed)] == [(1.5, 2)]
    sample = {"wav_path": "a.wav", "transcript_path": "a.txt", "offset": 1.5, "duration": 2}
    listed.with_name("a.txt").write_text("A")
    listed.write_text(json.dumps({"samples": [sample]}))
    assert [(u.offset, u.duration) for u in read_manifest(listed)] == [(1.5, 2)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"offset": -1, "duration": 2', "offset -1, duration 2; a segment begins at 0 or later"),
        ('"offset": 1, "duration": 0', "offset 1, duration 0; a segment .* longer than 0"),
        ('"offset": "x"', "offset 'x', expected numbers"),
        ('"offset": NaN', "offset nan, expected numbers"),
        ('"duration": Infinity', "duration inf, expected numbers"),
        ('"offset": 1' + "0" * 400, "offset 10*, expected numbers"),
        ('"speed": 0', "speed 0, expected a factor above 0"),
    ],
)
def test_impossible_figures_are_refused_with_the_line(tmp_path, fields, message):
    path = tmp_path / "m.jsonl"
    good = '{"audio": "a.wav", "text": "A"}\n'
    path.write_text(good + f'{{"audio": "a.wav", "text": "A", {fields}}}\n')
    with pytest.raises(UserError, match=f"m.jsonl, line 2: {message}"):
        read_manifest(path)


def test_only_json_lines_hold_segments(manifest, tmp_path):
    utterances = read_manifest(manifest)
    write_jsonl(utterances, tmp_path / "out.jsonl")
    assert read_manifest(tmp_path / "out.jsonl") == utterances
    for kind in sorted(WRITERS.keys() - {"jsonl"}):
        with pytest.raises(UserError, match="4 of 4 utterances are segments.*talk_0s.*JSON lines"):
            convert_manifest(manifest, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


def test_keys_that_are_not_used_are_named_once(tmp_path):
    record = {"audio_filepath": "a.wav", "text": "A", "duration": 1.0, "lang": "en"}
    lines = [record, record | {"audio_filepath": "b.wav", "end": 3, "begin": 1}]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    said: list[str] = []
    read_manifest(path, log=said.append)
    assert said == [
        f"manifest {path}: keys that are not used, with the number of their lines: lang (2), "
        'begin (1), end (1); to read a part of a recording, give "offset" and "duration" in seconds'
    ]


# ---- what reads manifests


def test_validation_and_datasets_see_the_segments(manifest, talk):
    utterances = read_manifest(manifest)
    beyond = replace(utterances[0], id="beyond", offset=2.9)
    report = validate([*utterances, beyond], TOKENIZER, FEATURIZER, lambda frames: frames, 0.1, 2.0)
    assert report.ok == utterances
    assert report.seconds == pytest.approx(1.0 + 0.73333 + 0.6 + 0.5, abs=2 / RATE)
    assert [(each.id, each.reason) for each in report.left_out] == [("beyond", "unreadable")]
    dataset = ManifestDataset(
        [*utterances, beyond], FEATURIZER, TOKENIZER, skip_unreadable=True, log=None
    )
    assert [failure.id for failure in dataset.unreadable] == ["beyond"]
    for example, (offset, duration) in zip(dataset.read(range(4)), PARTS):
        samples = cut(talk, offset, duration)
        np.testing.assert_array_equal(example.samples(FEATURIZER), samples)
        assert dataset.durations[example.index] == len(samples) / RATE
        assert dataset.frames[example.index] == FEATURIZER.frames(len(samples))


def test_mindrecord_files_hold_what_was_cut(manifest, talk, tmp_path):
    flac = tmp_path / "talk.flac"  # a whole one would be stored as it is
    sf.write(flac, sf.read(talk)[0], RATE)
    utterances = [replace(u, audio=flac) for u in read_manifest(manifest)]
    said: list[str] = []

    def converted(listed: list[Utterance]) -> list[np.ndarray]:
        convert(
            listed,
            tmp_path / "out",
            shards=1,
            featurizer=FEATURIZER,
            tokenizer=TOKENIZER,
            output_frames=lambda frames: frames,
            origin="m",
            log=said.append,
        )
        dataset = open_dataset(tmp_path / "out")
        return [example.samples(FEATURIZER) for example in dataset.read(range(len(dataset)))]

    for samples, part in zip(converted(utterances), PARTS, strict=True):
        np.testing.assert_array_equal(samples, cut(talk, *part))
    assert said == []
    converted(utterances)
    assert said.pop().endswith("up to date, nothing to convert")
    moved = [replace(utterances[0], offset=0.5), *utterances[1:]]
    assert other_origin(tmp_path / "out", moved) == "m"
    np.testing.assert_array_equal(converted(moved)[0], cut(talk, 0.5, 1.0))
    assert said.pop().endswith("converting again: the manifest or a recording has changed")


def test_features_for_the_program_in_c_are_those_of_the_segments(manifest, talk, tmp_path):
    utterances = read_manifest(manifest)
    model = SimpleNamespace(
        takes_samples=False, featurizer=FEATURIZER, tokenizer=TOKENIZER, features={}
    )
    beyond = replace(utterances[0], id="beyond", offset=2.9)
    problems = write_features(model, [*utterances, beyond], tmp_path / "out", workers=1)
    assert len(problems) == 1 and "the segment from 2.9 s" in problems[0]
    index = (tmp_path / "out/index.jsonl").read_text().splitlines()
    for entry, part in zip(map(json.loads, index), PARTS, strict=True):
        expected = FEATURIZER(cut(talk, *part))
        written = np.fromfile(tmp_path / "out" / entry["features"], "<f4")
        np.testing.assert_array_equal(written.reshape(expected.shape), expected)
        assert entry["duration"] == len(cut(talk, *part)) / RATE


def test_durations_for_the_doctor_are_those_of_the_segments(manifest):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from common.doctor.trials import guess_durations
    durations, guessed = guess_durations(read_manifest(manifest))
    assert durations.tolist() == [1.0, 0.73333, 0.6, 0.5] and guessed == 0


# ---- durations that the manifest declares


def test_recordings_that_last_longer_or_shorter_than_declared_are_counted(talk):
    notice = DurationNotice()
    for declared in (3.0, 3.19, 2.81, None):  # None: not declared
        notice.add(Utterance("good", talk, "A", declared), 3.0)
    notice.add(Utterance("part", talk, "A", 1.0, offset=0.0), 1.0)
    assert notice.line() is None
    notice.add(Utterance("short", talk, "A", 1.0), 3.0)
    notice.add(Utterance("long", talk, "A", 3.5), 3.0)
    assert notice.line() == (
        "2 of 5 recordings do not last as long as the manifest says (the first: short, 1.00 s in "
        f"the manifest and 3.00 s in {talk}); they are read whole: are these the right recordings? "
        'For a part of one, the manifest needs "offset" too'
    )
    hour = DurationNotice()
    hour.add(Utterance("hour", talk, "A", 3650.0), 3600.0)  # 1.4 %
    assert hour.line() is None


def test_every_reader_of_manifests_compares_durations(talk, tmp_path):
    listed = [Utterance("talk", talk, "A", 1.0)]
    said: list[str] = []
    ManifestDataset(listed, FEATURIZER, TOKENIZER, log=said.append)
    report = validate(listed, TOKENIZER, FEATURIZER, lambda frames: frames, 0.1, 9.0)
    said += report.lines()[1:]
    model = SimpleNamespace(
        takes_samples=False, featurizer=FEATURIZER, tokenizer=TOKENIZER, features={}
    )
    write_features(model, listed, tmp_path / "features", 1, said.append)
    convert(
        listed,
        tmp_path / "out",
        shards=1,
        featurizer=FEATURIZER,
        tokenizer=TOKENIZER,
        output_frames=lambda frames: frames,
        log=said.append,
    )
    assert len(said) == 4 and len(set(said)) == 1
    assert said[0].startswith("1 of 1 recordings do not last as long as the manifest says")
