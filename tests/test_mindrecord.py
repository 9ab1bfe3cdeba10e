"""Recordings to MindRecord files and back: nothing lost, nothing half done, refusals by name."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from common.audio.features import FeatureConfig, Featurizer
from common.audio.io import load_audio
from common.data import mindrecord
from common.data import mindrecord_writer as records
from common.data.dataset import ManifestDataset
from common.data.manifest import Utterance, read_manifest
from common.data.manifest_writers import write_jsonl
from common.data.mindrecord import convert, open_dataset
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError

RATE = 16000
ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = CharacterTokenizer(tuple("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"))
FEATURIZER = Featurizer(FeatureConfig(kind="logmel", bands=8))
TEXTS = ("ONE", "it's two", "AA", "FOUR  FIVE", "SIX", "SEVEN", "EIGHT")


def halved(frames: int) -> int:
    return (frames + 1) // 2


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Seven recordings of noise, 16 bits, each of another length."""
    made = []
    for number, text in enumerate(TEXTS):
        path = tmp_path / f"{number}.wav"
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 4000 + 1000 * number)
        sf.write(path, noise, RATE, subtype="PCM_16")
        made.append(Utterance(f"utterance {number}", path, text))
    return made


def run(utterances, directory: Path, **changes) -> tuple[mindrecord.ConversionReport, list[str]]:
    """Converts, and returns the report with what was logged."""
    said: list[str] = []
    settings = {
        "pattern": "part{}.md",
        "shards": 3,
        "featurizer": FEATURIZER,
        "tokenizer": VOCABULARY,
        "output_frames": halved,
        "store": "features",
        "log": said.append,
    }
    return convert(utterances, directory, **(settings | changes)), said


def contents(directory: Path) -> list[tuple]:
    """Every record to the last bit."""
    source = open_dataset(directory)
    return [
        (row.id, row.label_ids.tolist(), row.audio or row.features.tobytes())
        for row in source.read(range(len(source)))
    ]


def test_features_come_back_as_the_featurizer_made_them(utterances, tmp_path):
    report, said = run(utterances, tmp_path / "set")
    assert said == []
    assert report.utterances == 7
    assert report.left_out == ()
    assert report.seconds == pytest.approx(sum(4000 + 1000 * n for n in range(7)) / RATE)

    source = open_dataset(tmp_path / "set", featurizer=FEATURIZER, tokenizer=VOCABULARY)
    assert source.store == "features"
    assert source.ids == [utterance.id for utterance in utterances]
    assert source.texts == ["ONE", "IT'S TWO", "AA", "FOUR FIVE", "SIX", "SEVEN", "EIGHT"]
    assert source.label_counts.tolist() == [3, 8, 2, 9, 3, 5, 5]
    assert source.ctc_frames.tolist() == [3, 8, 3, 9, 3, 5, 5]
    for row, utterance in zip(source.read(range(7)), utterances, strict=True):
        expected = FEATURIZER(load_audio(utterance.audio, RATE))
        assert row.features.dtype == np.float32
        np.testing.assert_array_equal(row.features, expected)
        assert source.frames[row.index] == expected.shape[1]
        assert VOCABULARY.decode(row.label_ids) == source.texts[row.index]
        assert source.durations[row.index] == sf.info(utterance.audio).duration


def test_audio_of_16_bits_comes_back_exactly(utterances, tmp_path):
    run(utterances, tmp_path / "set", store="audio")
    source = open_dataset(tmp_path / "set")
    assert source.store == "audio"
    for row, utterance in zip(source.read(range(7)), utterances, strict=True):
        expected, _ = sf.read(utterance.audio, dtype="float32")
        np.testing.assert_array_equal(row.samples(FEATURIZER), expected)


def test_compact_audio_is_stored_unchanged_with_zero_bytes_at_its_end(utterances, tmp_path):
    path = tmp_path / "padded.flac"
    sf.write(path, np.linspace(-0.5, 0.5, 8000), RATE, subtype="PCM_24")
    with path.open("ab") as file:
        file.write(bytes(16))
    run([Utterance("flac", path, "ONE")], tmp_path / "set", store="audio")
    (row,) = open_dataset(tmp_path / "set").read([0])
    assert row.audio == path.read_bytes()


def test_resampling_and_down_mixing_are_logged_once(utterances, tmp_path):
    path = tmp_path / "stereo.wav"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    sf.write(path, np.stack([tone, np.zeros_like(tone)], 1), 22050)
    _, said = run([*utterances, Utterance("stereo", path, "ONE")], tmp_path / "set", store="audio")
    assert said == [
        "1 of 8 recordings resampled from 22050 Hz to 16000 Hz,"
        " 1 of 8 recordings down-mixed to mono"
    ]
    (row,) = open_dataset(tmp_path / "set").read([7])
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / RATE)
    np.testing.assert_allclose(row.samples(FEATURIZER)[500:-500], expected[500:-500], atol=2e-4)


def test_examples_are_read_in_the_requested_order(utterances, tmp_path):
    run(utterances, tmp_path / "set", shards=7)
    source = open_dataset(tmp_path / "set")
    order = [6, 0, 3, 3, 5, 0, 1]
    assert [row.index for row in source.read(order)] == order
    assert [row.id for row in source.read(order)] == [source.ids[index] for index in order]
    assert list(source.read([])) == []
    assert [row.index for row in source.read(order * 5)] == order * 5

    part = source.subset([5, 2]).subset([1, 0])
    assert (len(part), part.ids) == (2, ["utterance 2", "utterance 5"])
    rows = list(part.read([1, 0, 1]))
    assert [(row.index, row.id) for row in rows] == [
        (1, "utterance 5"),
        (0, "utterance 2"),
        (1, "utterance 5"),
    ]


def test_many_shards_keep_the_order_of_the_manifest(utterances, tmp_path):
    many = [Utterance(str(n), utterances[n % 7].audio, "ONE") for n in range(24)]
    run(many, tmp_path / "set", shards=12)
    source = open_dataset(tmp_path / "set")
    assert [row.id for row in source.read(range(24))] == [str(n) for n in range(24)]


def test_a_dataset_can_be_opened_from_some_of_its_files(utterances, tmp_path):
    directory = tmp_path / "set"
    run(utterances, directory)  # 3, 2 and 2 utterances
    source = open_dataset(directory, files=[directory / "part2.md", "part0.md"])
    assert source.ids == [f"utterance {n}" for n in (0, 1, 2, 5, 6)]
    assert [row.id for row in source.read([4, 0])] == ["utterance 6", "utterance 0"]
    known = "part0.md, part1.md, part2.md"
    with pytest.raises(UserError, match=f"part9.md is not of .*set, which has {known}"):
        open_dataset(directory, files=["part9.md"])
    with pytest.raises(UserError, match="elsewhere/part0.md is not of"):
        open_dataset(directory, files=[tmp_path / "elsewhere" / "part0.md"])


def test_a_renamed_directory_opens(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    before = contents(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "moved to")
    assert contents(tmp_path / "moved to") == before


def test_processes_make_the_same_files_as_one_alone(utterances, tmp_path, monkeypatch):
    run(utterances, tmp_path / "one")
    monkeypatch.setattr(records, "_MIN_ITEMS_PER_WORKER", 1)
    run(utterances, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_killed_worker_process_is_an_error(monkeypatch):
    monkeypatch.setattr(records, "_MIN_ITEMS_PER_WORKER", 1)
    with pytest.raises(UserError, match="one of 2 converting processes was killed"):
        list(records._in_order(os._exit, [1, 1], workers=2))


@pytest.mark.launcher
def test_worker_processes_load_no_mindspore():
    code = (
        "import sys, common.data.mindrecord, common.data.loader\n"
        "sys.exit('mindspore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- what is left out


def test_what_cannot_be_used_is_left_out_and_reported(utterances, tmp_path):
    def add(name: str, text: str, samples: np.ndarray) -> None:
        sf.write(tmp_path / f"{name}.wav", samples, RATE)
        utterances.append(Utterance(name, tmp_path / f"{name}.wav", text))

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    add("silence", "ONE", np.zeros(8000))
    add("nothing", " ", noise)
    add("digits", "ROUTE 66", noise)
    add("click", "ONE", noise[:1000])
    add("long", "ONE", np.tile(noise, 3))
    add("crowded", "A" * 14, noise)  # 51 frames, 26 output frames, 14 + 13 needed
    add("just so", "A" * 13, noise)
    utterances.append(Utterance("gone", tmp_path / "gone.wav", "ONE"))
    report, _ = run(utterances, tmp_path / "set", min_duration=0.1, max_duration=1.0, shards=2)

    assert [(each.id, each.reason) for each in report.left_out] == [
        ("silence", "silent"),
        ("nothing", "empty text"),
        ("digits", "unknown characters"),
        ("click", "too short"),
        ("long", "too long"),
        ("crowded", "CTC-infeasible"),
        ("gone", "unreadable"),
    ]
    assert report.utterances == 8
    assert open_dataset(tmp_path / "set").ids[-1] == "just so"
    lines = report.lines()
    assert lines[0] == f"{tmp_path / 'set'}: 8 utterances, 0.00 hours"
    position = lines.index("left out, CTC-infeasible: 1")
    assert lines[position + 1] == "  crowded: text needs 27 output frames, the audio gives 26"
    assert any("gone.wav: No such file" in line for line in lines)


def test_a_shard_without_a_good_utterance_is_not_written(utterances, tmp_path):
    bad = [Utterance(f"bad {n}", tmp_path / "gone.wav", "ONE") for n in range(3)]
    run([*bad, *utterances[:3]], tmp_path / "set", shards=2)
    assert [file.name for file in open_dataset(tmp_path / "set").files] == ["part1.md"]
    assert [row[0] for row in contents(tmp_path / "set")] == [f"utterance {n}" for n in range(3)]


def test_there_may_be_more_shards_than_utterances(utterances, tmp_path):
    run(utterances[:2], tmp_path / "set", shards=5)
    assert [row[0] for row in contents(tmp_path / "set")] == ["utterance 0", "utterance 1"]


def test_no_usable_utterance_is_an_error_and_leaves_nothing(utterances, tmp_path):
    bad = [Utterance(f"bad {n}", tmp_path / "gone.wav", "ONE") for n in range(3)]
    expected = "no utterance can be used .unreadable: 3.; the first is bad 0: .*gone.wav"
    with pytest.raises(UserError, match=expected):
        run(bad, tmp_path / "set")
    assert not list(tmp_path.glob("set*"))


def test_a_record_larger_than_mindrecord_can_hold_is_left_out(utterances, tmp_path, monkeypatch):
    monkeypatch.setattr(mindrecord, "MAX_RECORD_BYTES", 1000 * 8)  # 250 frames
    path = tmp_path / "long.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 260 * 160), RATE)
    report, _ = run([*utterances, Utterance("long", path, "ONE")], tmp_path / "set")
    assert [(each.id, each.reason) for each in report.left_out] == [("long", "too long")]


# ---- again, interrupted, changed


def test_converting_again_does_nothing(utterances, tmp_path):
    report, _ = run(utterances, tmp_path / "set")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    again, said = run(utterances, tmp_path / "set")
    assert said == [f"{tmp_path / 'set'}: up to date, nothing to convert"]
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == files


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"store": "audio"}, "store is 'features' in the files, 'audio' is wanted"),
        ({"shards": 2}, "shards is 3 in the files, 2 is wanted"),
        (
            {"featurizer": Featurizer(FeatureConfig(kind="logmel", bands=8, window="hann"))},
            "features.window is 'hamming' in the files, 'hann' is wanted",
        ),
        (
            {"featurizer": Featurizer(replace(FEATURIZER.config, trim_silence=True))},
            "features.trim_silence is False in the files, True is wanted",
        ),
        (
            {"tokenizer": CharacterTokenizer(tuple("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _-"))},
            "labels differ: 29 in the files, 30 are wanted; the first that differs, number 29,"
            " is none in the files, '-' is wanted",
        ),
        ({"min_duration": 0.3}, "min_duration is 0.0 in the files, 0.3 is wanted"),
        ({"output_frames": lambda n: n}, "the network's output frames have changed"),
    ],
)
def test_converting_with_other_settings_says_why_and_replaces_the_files(
    utterances, tmp_path, change, reason
):
    run(utterances, tmp_path / "set")
    _, said = run(utterances, tmp_path / "set", **change)
    assert said == [f"{tmp_path / 'set'}: converting again: {reason}"]
    run(utterances, tmp_path / "afresh", **change)
    assert contents(tmp_path / "set") == contents(tmp_path / "afresh")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["afresh", "set"]


def test_a_feature_setting_that_only_the_files_have_is_named(utterances, tmp_path):
    trimming = Featurizer(replace(FEATURIZER.config, trim_silence=True))
    run(utterances, tmp_path / "set", featurizer=trimming)
    with pytest.raises(UserError, match="features.trim_silence is True in the files, False is wan"):
        open_dataset(tmp_path / "set", featurizer=FEATURIZER)


def test_a_changed_recording_is_converted_again(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    sf.write(utterances[2].audio, np.random.default_rng(9).uniform(-0.5, 0.5, 7000), RATE)
    _, said = run(utterances, tmp_path / "set")
    assert said[0].endswith("set: converting again: the manifest or a recording has changed")
    assert open_dataset(tmp_path / "set").durations[2] == 7000 / RATE


def interrupt_after(count: int, error: type[BaseException] = KeyboardInterrupt):
    """Output frames like `halved`, with `error` raised at the utterance after `count`."""
    calls = iter(range(len(mindrecord._PROBES) + count))

    def output_frames(frames: int) -> int:
        if next(calls, None) is None:
            raise error
        return halved(frames)

    return output_frames


def test_the_earlier_conversion_stays_until_the_new_one_is_complete(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        run(utterances, tmp_path / "set", store="audio", output_frames=interrupt_after(5))
    assert contents(tmp_path / "set") == before
    _, said = run(utterances, tmp_path / "set", store="audio")
    assert said[1] == f"{tmp_path / 'set.partial'}: continuing an interrupted conversion"
    assert open_dataset(tmp_path / "set").store == "audio"


def test_a_conversion_interrupted_by_ctrl_c_is_continued(utterances, tmp_path):
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(utterances, tmp_path / "set", output_frames=interrupt_after(4), log=said.append)
    partial = tmp_path / "set.partial"
    assert said == [f"{partial}: interrupted; the same command continues"]
    assert not (tmp_path / "set").exists()
    with pytest.raises(UserError, match="no converted corpus here .* continues the conversion"):
        open_dataset(tmp_path / "set")

    first = (partial / "part0.md").stat().st_ino
    _, said = run(utterances, tmp_path / "set")
    assert said == [f"{partial}: continuing an interrupted conversion"]
    assert (tmp_path / "set" / "part0.md").stat().st_ino == first
    run(utterances, tmp_path / "at once")
    assert contents(tmp_path / "set") == contents(tmp_path / "at once")
    names = [sorted(path.name for path in (tmp_path / d).iterdir()) for d in ("set", "at once")]
    assert names[0] == names[1]


@pytest.mark.launcher
def test_a_killed_conversion_is_incomplete_and_is_continued(utterances, tmp_path):
    write_jsonl(utterances, tmp_path / "manifest.jsonl")
    utterances = read_manifest(tmp_path / "manifest.jsonl")
    script = f"""
import os, signal
import test_mindrecord as t

class Kill(BaseException):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)

folder = t.Path({str(tmp_path)!r})
utterances = t.read_manifest(folder / "manifest.jsonl")
t.run(utterances, folder / "set", output_frames=t.interrupt_after(4, Kill))
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    assert (tmp_path / "set.partial" / "part1.md").exists()

    _, said = run(utterances, tmp_path / "set")
    assert said == [f"{tmp_path / 'set.partial'}: continuing an interrupted conversion"]
    run(utterances, tmp_path / "at once")
    assert contents(tmp_path / "set") == contents(tmp_path / "at once")


def test_an_interrupted_conversion_of_other_data_starts_anew(utterances, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(utterances, tmp_path / "set", output_frames=interrupt_after(4))
    _, said = run(utterances[1:], tmp_path / "set")
    assert said == [
        f"{tmp_path / 'set.partial'}: an interrupted conversion is started again:"
        " the manifest or a recording has changed"
    ]
    assert open_dataset(tmp_path / "set").ids == [f"utterance {n}" for n in range(1, 7)]


def test_a_truncated_shard_is_converted_again(utterances, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(utterances, tmp_path / "set", output_frames=interrupt_after(4))
    os.truncate(tmp_path / "set.partial" / "part0.md", 1000)
    run(utterances, tmp_path / "set")
    run(utterances, tmp_path / "at once")
    assert contents(tmp_path / "set") == contents(tmp_path / "at once")


def test_a_kill_between_the_renames_loses_nothing(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "set.old")
    _, said = run(utterances, tmp_path / "set")
    assert said == [f"{tmp_path / 'set'}: up to date, nothing to convert"]
    assert len(contents(tmp_path / "set")) == 7


def test_a_damaged_conversion_is_converted_again(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    (tmp_path / "set" / "part1.md").unlink()
    _, said = run(utterances, tmp_path / "set")
    directory = tmp_path / "set"
    assert said == [f"{directory}: converting again: {directory / 'part1.md'}: missing"]
    assert len(contents(tmp_path / "set")) == 7


def test_two_conversions_at_once_are_refused(utterances, tmp_path):
    (tmp_path / "set.partial").mkdir()
    handle = os.open(tmp_path / "set.partial", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="set.partial: another conversion is writing here"):
            run(utterances, tmp_path / "set")
    finally:
        os.close(handle)


# ---- refusals


def test_a_directory_with_other_things_is_not_replaced(utterances, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("three years")
    with pytest.raises(UserError, match="set: not made by a conversion .* not replaced"):
        run(utterances, tmp_path / "set")
    assert (tmp_path / "set" / "thesis.txt").exists()


def test_the_files_of_another_corpus_are_not_replaced(utterances, tmp_path):
    run(utterances, tmp_path / "set", pattern="an4_{}.md")
    before = contents(tmp_path / "set")
    message = r"set: holds another corpus, made as an4_\{\}\.md; choose another .*mindrecord_format"
    with pytest.raises(UserError, match=message):
        run(utterances, tmp_path / "set", pattern="libri_{}.md")
    assert contents(tmp_path / "set") == before

    with pytest.raises(KeyboardInterrupt):
        run(utterances, tmp_path / "new", pattern="an4_{}.md", output_frames=interrupt_after(4))
    files = sorted(path.name for path in (tmp_path / "new.partial").iterdir())
    assert "an4_0.md" in files
    with pytest.raises(UserError, match=r"new\.partial: holds another corpus, made as an4_"):
        run(utterances, tmp_path / "new", pattern="libri_{}.md")
    assert sorted(path.name for path in (tmp_path / "new.partial").iterdir()) == files
    run(utterances, tmp_path / "new", pattern="an4_{}.md")
    assert contents(tmp_path / "new") == before


def test_a_place_that_cannot_be_written_is_named(utterances, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/.*cannot be written: Not a directory"):
        run(utterances, tmp_path / "file" / "set")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": "mp3"}, "store: 'mp3' is unknown; choose features or audio"),
        ({"shards": 0}, "shards: 0 files"),
    ],
)
def test_wrong_settings_are_named(utterances, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(utterances, tmp_path / "set", **changes)


def test_a_file_name_needs_one_place_for_the_number(utterances, tmp_path):
    settings = {"featurizer": FEATURIZER, "tokenizer": VOCABULARY, "output_frames": halved}
    for stem in ("train.md", "a{}b{}.md", "sub/{}.md"):
        with pytest.raises(UserError, match="expected one {} for the number"):
            convert(utterances, tmp_path / "set", stem, shards=1, **settings)


def test_other_features_and_labels_are_refused_by_name(utterances, tmp_path):
    run(utterances, tmp_path / "set")
    other = Featurizer(FeatureConfig(kind="logmel", bands=10))
    with pytest.raises(UserError, match="set: features.bands is 8 in the files, 10 is wanted;"):
        open_dataset(tmp_path / "set", featurizer=other)
    for labels, difference in (
        ("AB_", """3 are wanted; the first that differs, number 0, is "'" in the files, 'A' is"""),
        ("'ABCDEFGHIJKLMNOPQRSTUVWXYZ _Ä", "30 are .* number 29, is none in the files, 'Ä' is"),
        ("'AB_" + "".join(map(chr, range(0x4E00, 0x6000))), "4612 are .* 3, is 'C' .*, '_' is"),
    ):
        with pytest.raises(UserError, match=f"29 in the files, {difference} wanted") as refused:
            open_dataset(tmp_path / "set", tokenizer=CharacterTokenizer(tuple(labels)))
        assert len(str(refused.value)) < 250 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["part1.md", "part1.md.db", "utterances.jsonl"])
def test_truncated_and_missing_files_are_refused_by_name(utterances, tmp_path, name):
    run(utterances, tmp_path / "set")
    size = (tmp_path / "set" / name).stat().st_size
    os.truncate(tmp_path / "set" / name, size // 2)
    with pytest.raises(
        UserError, match=f"{name}: {size // 2} bytes, expected {size}; it is truncated"
    ):
        open_dataset(tmp_path / "set")
    (tmp_path / "set" / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing; convert again"):
        open_dataset(tmp_path / "set")


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="set: no converted corpus here .* create_mindrecord.py"):
        open_dataset(tmp_path / "set")


def test_swapped_files_are_refused_when_read(utterances, tmp_path):
    run([utterances[0], utterances[0]], tmp_path / "set", shards=1)
    other = [Utterance("impostor ?", utterances[0].audio, "ONE"), utterances[0]]
    run(other, tmp_path / "other", shards=1)
    for name in ("part0.md", "part0.md.db"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "set" / name)
    with pytest.raises(UserError, match="set.*convert again"):
        list(open_dataset(tmp_path / "set").read([0]))


# ---- straight from recordings


def test_a_manifest_gives_the_same_dataset_as_its_mindrecord_files(utterances, tmp_path):
    path = tmp_path / "22050.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 11111), 22050)
    utterances.append(Utterance("22050", path, "ONE"))
    run(utterances, tmp_path / "set", store="audio")
    records = open_dataset(tmp_path / "set")
    said = []
    manifest = ManifestDataset(utterances, FEATURIZER, VOCABULARY, log=said.append)
    assert said == ["1 of 8 recordings resampled from 22050 Hz to 16000 Hz"]
    assert manifest.store == records.store
    assert (manifest.ids, manifest.texts) == (records.ids, records.texts)
    for name in ("frames", "label_counts", "ctc_frames"):
        assert getattr(manifest, name).tolist() == getattr(records, name).tolist()
    np.testing.assert_allclose(manifest.durations, records.durations, atol=1 / RATE)
    order = [3, 7, 0, 3]
    for a, b in zip(manifest.subset(range(8)).read(order), records.read(order), strict=True):
        assert (a.index, a.id, a.label_ids.tolist()) == (b.index, b.id, b.label_ids.tolist())
        np.testing.assert_allclose(a.samples(FEATURIZER), b.samples(FEATURIZER), atol=1 / 32768)


def test_a_manifest_can_be_read_without_labels(utterances):
    odd = Utterance("odd", utterances[0].audio, "Route 66")
    with pytest.raises(UserError, match="utterance odd: .*'6'"):
        ManifestDataset([odd], FEATURIZER, VOCABULARY)
    source = ManifestDataset([odd], FEATURIZER, VOCABULARY, labelled=False)
    assert (source.texts, source.label_counts.tolist()) == (["ROUTE 66"], [0])
    (row,) = source.read([0])
    assert row.label_ids.shape == (0,)


def test_a_missing_recording_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="gone.wav: No such file"):
        ManifestDataset([Utterance("gone", tmp_path / "gone.wav", "ONE")], FEATURIZER, VOCABULARY)
