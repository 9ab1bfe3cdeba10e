"""Manifests: what is read, what is refused and how, what is written, and what validation finds."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.features import FeatureConfig, Featurizer
from common.config import DataConfig
from common.data.corpora import build_an4, build_librispeech
from common.data.manifest import Utterance, read_data, read_manifest, without_copies
from common.data.manifest_writers import WRITERS, convert_manifest, write_jsonl
from common.data.validation import validate
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from common.utils.files import absolute_path

RATE = 16000
SCRIPT = Path(__file__).parent.parent / "scripts" / "manifest.py"


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)
    return path


def tone(path: Path, seconds: float = 1.0, peak: float = 0.5, rate: int = RATE, **kind) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = peak * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, samples, rate, **kind)
    return path


def brief(utterances: list[Utterance]) -> list[tuple]:
    return [(u.id, u.audio, u.text) for u in utterances]


# ---- the formats


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    "header", ["", "audio,text\n", "wav,transcript\n", "path,text\n", "filename,transcript.txt\n"]
)
def test_csv_takes_texts_and_transcript_files(tmp_path, encoding, header):
    write(tmp_path / "txt/b.txt", "ZWEI  DREI\n", encoding)
    content = f'{header}wav/a.wav,ÉÎN\n\n wav/b.wav , txt/b.txt\n/far/c.flac,"JA, GUT"\n'
    path = write(tmp_path / "m.csv", content, encoding)
    assert brief(read_manifest(path)) == [
        ("a", tmp_path / "wav/a.wav", "ÉÎN"),
        ("b", tmp_path / "wav/b.wav", "ZWEI DREI"),
        ("c", Path("/far/c.flac"), "JA, GUT"),
    ]


def test_a_first_line_that_names_a_recording_is_not_a_header(tmp_path):
    (tmp_path / "wav").mkdir()  # named as the header is
    write(tmp_path / "spoken", "")
    for first, expected in {
        "spoken": ["spoken", "a"],  # a file
        "gone.wav": ["gone", "a"],  # a suffix
        "wav": ["a"],
    }.items():
        path = write(tmp_path / "m.csv", f"{first},text\na.wav,A\n")
        assert [utterance.id for utterance in read_manifest(path)] == expected
    path = write(tmp_path / "m.csv", "a.wav,A\nspeech,B\n")  # not the first line
    assert [utterance.id for utterance in read_manifest(path)] == ["a", "speech"]


def test_relative_paths_follow_the_manifest_or_data_dir(tmp_path, monkeypatch):
    write(tmp_path / "lists/m.csv", "../wav/a.wav,A\n")
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert read_manifest("lists/m.csv")[0].audio == tmp_path / "wav/a.wav"
    assert read_manifest("lists/m.csv", "deep/er")[0].audio == tmp_path / "deep/wav/a.wav"


def test_paths_are_those_that_the_system_opens(tmp_path, monkeypatch):
    """Of folders, links to folders and files, and what is not there, in all orders."""
    for folder in ("a/b", "c/d", "c/wav"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("../c/d")
    (tmp_path / "a/absolute").symlink_to(tmp_path / "c")
    (tmp_path / "a/gone").symlink_to("nowhere")
    write(tmp_path / "a/file", "")
    names = ("a", "b", "c", "d", "link", "absolute", "gone", "file", "..")
    monkeypatch.chdir(tmp_path / "a")
    found = 0
    for parts in itertools.product(names, repeat=4):
        path = "/".join(parts)
        plain = absolute_path(path)
        assert plain.is_absolute() and plain.exists() == os.path.exists(path), path
        if plain.exists():
            assert os.path.samefile(plain, path), path
            found += 1
    assert found > 30
    for path, expected in {"b/../file": "a/file", "b/../../c/./d": "c/d", "link": "a/link"}.items():
        assert absolute_path(path) == tmp_path / expected
    assert absolute_path("/../../x") == Path("/x")


def test_a_folder_behind_a_link_is_left_the_way_the_system_does(tmp_path):
    """The folder of the manifest is a link: ../wav lies beside what it points to."""
    write(tmp_path / "store/v2/manifests/m.csv", "../wav/a.wav,RIGHT\n")
    write(tmp_path / "store/v2/wav/a.wav", "right")
    write(tmp_path / "project/wav/a.wav", "wrong")
    (tmp_path / "project/manifests").symlink_to("../store/v2/manifests")
    write(tmp_path / "project/a.txt", "RIGHT")
    samples = [{"wav_path": "manifests/../wav/a.wav", "transcript_path": "a.txt"}]
    write(tmp_path / "project/m.json", json.dumps({"root_path": ".", "samples": samples}))
    for manifest in ("project/manifests/m.csv", "project/m.json"):
        (utterance,) = read_manifest(tmp_path / manifest)
        assert utterance.audio.read_text() == "right" and utterance.id == "a"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_deepspeech_json_is_read(tmp_path, indent, encoding):
    write(tmp_path / "an4/txt/a.txt", "GO\n")
    sample = {"wav_path": "wav/a.wav", "transcript_path": "txt/a.txt"}
    for root in ("an4", str(tmp_path / "an4")):
        content = json.dumps({"root_path": root, "samples": [sample]}, indent=indent)
        path = write(tmp_path / "m.json", content, encoding)
        assert brief(read_manifest(path)) == [("a", tmp_path / "an4/wav/a.wav", "GO")]
    content = json.dumps({"root_path": "/where/it/was", "samples": [sample]})
    moved = read_manifest(write(tmp_path / "m.json", content), data_dir=tmp_path / "an4")
    assert brief(moved) == [("a", tmp_path / "an4/wav/a.wav", "GO")]


def test_jasper_json_gives_each_file_with_its_speed(tmp_path):
    files = [
        {"fname": "a.wav", "duration": 2.0, "speed": 1},
        {"fname": "a-0.9.wav", "duration": 2.22, "speed": 0.9},
        {"fname": "b.wav"},
    ]
    content = [{"transcript": "go on", "files": files, "original_duration": 2.0}]
    path = write(tmp_path / "m.json", json.dumps(content))
    assert read_manifest(path) == [
        Utterance("a", tmp_path / "a.wav", "go on", 2.0, 1.0),
        Utterance("b", tmp_path / "b.wav", "go on", None, 1.0),
        Utterance("a-0.9", tmp_path / "a-0.9.wav", "go on", 2.22, 0.9, "a"),
    ]


def test_copies_at_other_speeds_name_their_original(tmp_path):
    entries = []
    for folder in ("one", "two"):  # whose names are the same, as in LibriSpeech's parts
        speeds = {"x.wav": 1.0, "x-0.9.wav": 0.9, "x-1.1.wav": 1.1}
        files = [
            {"fname": f"{folder}/{name}", "speed": speeds[name]} for name in ("x-0.9.wav", "x.wav")
        ]
        files.append({"fname": f"{folder}/x-1.1.wav", "duration": 1.0, "speed": 1.1})
        entries.append({"transcript": "go", "files": files})
    utterances = read_manifest(write(tmp_path / "m.json", json.dumps(entries)))
    assert [(each.id, each.copy_of) for each in utterances] == [
        ("x", ""),
        ("x-0.9", "x"),
        ("x-1.1", "x"),
        ("x-2", ""),
        ("x-0.9-2", "x-2"),
        ("x-1.1-2", "x-2"),
    ]
    assert [each.id for each in without_copies(utterances, "m")] == ["x", "x-2"]
    with pytest.raises(UserError, match="manifest m: all of its 2 recordings have another speed"):
        without_copies(utterances[1:3], "m")
    write_jsonl(utterances, tmp_path / "again.jsonl")
    assert read_manifest(tmp_path / "again.jsonl") == utterances


@pytest.mark.parametrize("name", ["m.jsonl", "m.json"])
def test_json_lines_are_read(tmp_path, name):
    lines = [
        '{"id": "x1", "audio": "a.wav", "text": "你好", "duration": 1.5}',
        "",
        '{"audio_filepath": "b.wav", "text": "line\u2028break"}',
    ]
    path = write(tmp_path / name, "\n".join(lines), "utf-8-sig")
    assert read_manifest(path) == [
        Utterance("x1", tmp_path / "a.wav", "你好", 1.5),
        Utterance("b", tmp_path / "b.wav", "line break"),
    ]


def test_several_manifests_join_and_ids_stay_unique(tmp_path):
    one = write(tmp_path / "one.csv", "x/a.wav,A\ny/a.wav,B\nz/a-2.wav,C\n")
    two = write(tmp_path / "two.csv", "w/b.wav,D\n")
    utterances = read_manifest([one, two])
    assert [u.id for u in utterances] == ["a", "a-2", "a-2-2", "b"]
    assert [u.text for u in utterances] == ["A", "B", "C", "D"]


def test_equal_names_in_several_manifests_are_numbered_on(tmp_path):
    one = write(tmp_path / "one.csv", "x/001.wav,A\ny/001.wav,B\n")
    lines = [
        {"audio": "z/001.wav", "text": "C"},
        {"audio": "z/001-0.9.wav", "text": "C", "speed": 0.9, "copy_of": "001"},
        {"audio": "z/b.wav", "text": "D", "id": "001-2"},
    ]
    two = write(tmp_path / "two.jsonl", "\n".join(map(json.dumps, lines)))
    utterances = read_manifest([one, two])
    assert [u.id for u in utterances] == ["001", "001-2", "001-3", "001-0.9", "001-2-2"]
    assert utterances[3].copy_of == "001-3"  # of its own manifest
    joined = write(tmp_path / "joined.csv", "x/001.wav,A\ny/001.wav,B\nz/001.wav,C\n")
    assert utterances[:3] == read_manifest(joined)


def test_doubled_recordings_are_named_once(tmp_path):
    one = write(tmp_path / "one.csv", "a.wav,A\nb.wav,B\na.wav,A\n")
    two = write(tmp_path / "two.csv", "x/../b.wav,OTHER\na.wav,A\nx/a.wav,A\n")
    (tmp_path / "x").mkdir()
    said: list[str] = []
    assert len(read_manifest([one, two], log=said.append)) == 6
    assert said == [
        f"{one}, {two}: 2 of 6 utterances are listed again, with the same recording and text, and "
        f"count as often; the first: a-2 and a, {tmp_path}/a.wav",
        f"{one}, {two}: 1 of 6 utterances have the recording of another, and another text; the "
        f"first: b-2 and b, {tmp_path}/b.wav",
    ]
    said.clear()
    read_manifest(write(tmp_path / "three.csv", "a.wav,A\nb.wav,A\n"), log=said.append)
    assert said == []


def test_read_data_follows_the_configuration(tmp_path):
    data = DataConfig(Data_dir=str(tmp_path / "far"), normalize_transcripts="english")
    tokenizer = CharacterTokenizer(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ '_"))
    paths = [
        write(tmp_path / "one.csv", "a.wav,Mr. 1\n"),
        write(tmp_path / "two.csv", f"{tmp_path}/b.wav,b?\n"),
    ]
    assert brief(read_data(data, tokenizer, paths)) == [
        ("a", tmp_path / "far/a.wav", "mister one"),
        ("b", tmp_path / "b.wav", "b"),
    ]
    assert read_data(data, tokenizer, paths[:1], "")[0].audio == tmp_path / "a.wav"
    data.normalize_transcripts = ""
    assert read_data(data, tokenizer, paths)[0].text == "Mr. 1"


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_format_that_is_written_is_read_back(tmp_path, kind):
    tone(tmp_path / "in/a.wav", seconds=0.5)
    tone(tmp_path / "in/b.flac", seconds=0.25)
    utterances = [
        Utterance("a", tmp_path / "in/a.wav", 'HE SAID "NO, É"'),
        Utterance("b", tmp_path / "in/b.flac", "你好"),
    ]
    path = tmp_path / "out" / "m.json"
    WRITERS[kind](utterances, path)
    assert brief(read_manifest(path)) == brief(utterances)
    assert not list(tmp_path.rglob("*.partial"))
    if kind == "jasper":
        assert [u.duration for u in read_manifest(path)] == [0.5, 0.25]


def test_jaspers_json_keeps_copies_with_their_utterance(tmp_path):
    utterances = [
        Utterance("a", tmp_path / "a.wav", "go", 2.0),
        Utterance("a9", tmp_path / "a9.wav", "go", 2.22, 0.9, "a"),
        Utterance("b", tmp_path / "b.wav", "on", 1.0),
    ]
    WRITERS["jasper"](utterances, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == utterances
    content = json.loads((tmp_path / "m.json").read_text())
    assert [len(entry["files"]) for entry in content] == [2, 1]


@pytest.mark.parametrize("kind", ["csv", "deepspeech"])
def test_copies_at_other_speeds_are_left_out_where_the_format_cannot_hold_them(tmp_path, kind):
    utterances = [
        Utterance("a", tmp_path / "a.wav", "go"),
        Utterance("a9", tmp_path / "a9.wav", "go", None, 0.9, "a"),
        Utterance("b", tmp_path / "b.wav", "on"),
        Utterance("c9", tmp_path / "c9.wav", "on", None, 0.9),
    ]
    with pytest.raises(UserError, match="2 of 4 utterances are copies at another speed.* a9"):
        WRITERS[kind](utterances, tmp_path / "m")
    source = tmp_path / "m.jsonl"
    write_jsonl(utterances, source)
    said: list[str] = []
    assert convert_manifest(source, tmp_path / "m", kind, log=said.append) == 2
    assert said == [f"{source}: 2 of 4 recordings left out: copies at another speed"]
    assert [u.id for u in read_manifest(tmp_path / "m")] == ["a", "b"]
    assert convert_manifest(source, tmp_path / "all.jsonl", "jsonl") == 4
    write_jsonl(utterances[1:2], source)
    with pytest.raises(UserError, match="all of its 1 recordings have another speed"):
        convert_manifest(source, tmp_path / "m", kind)


def test_json_lines_keep_everything(tmp_path):
    utterances = [Utterance("x/1", tmp_path / "a.wav", "A", 1.25, 0.9)]
    WRITERS["jsonl"](utterances, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl") == utterances


def test_json_is_converted_to_csv(tmp_path):
    write(tmp_path / "a.txt", "GO")
    sample = {"wav_path": "a.wav", "transcript_path": "a.txt"}
    source = write(tmp_path / "m.json", json.dumps({"root_path": ".", "samples": [sample]}))
    assert convert_manifest(source, tmp_path / "m.csv") == 1
    assert (tmp_path / "m.csv").read_text() == f"{tmp_path / 'a.wav'},GO\n"


# ---- what is refused


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("m.csv", "", "holds no utterances"),
        ("m.csv", "\ufeff\n", "holds no utterances"),
        ("m.json", "[]", "holds no utterances"),
        ("m.json", '{"samples": []}', "holds no utterances"),
        ("m.csv", "a.wav,A\nb.wav\n", "line 2: expected 2 columns.* found 1"),
        ("m.csv", "a.wav,ONE, TWO\n", "line 1: expected 2 columns.* found 3.*double quotes"),
        ("m.csv", 'a.wav,A\nb.wav,"B\n', "line 2: not CSV"),
        ("m.csv", ",A\n", "line 1: no audio path"),
        ("m.csv", "a.wav,gone.txt\n", "line 1: transcript file .*gone.txt: cannot be read"),
        ("m.json", '{\n"samples": [\n{"wav_path"', "line 3.*not JSON"),
        ("m.json", '[{"transcript": "a", "files"', "line 1.*not JSON"),
        ("m.json", '{\n"root": 1}', "no 'samples' .list., found root"),
        ("m.json", '{"samples": [{"wav_path": "a"}]}', "sample 1: no 'transcript_path'"),
        ("m.json", '["a.wav"]', "entry 1: no 'transcript' .str., found 'a.wav'"),
        ("m.json", '[{"transcript": "a"}]', "entry 1: no 'files'"),
        ("m.json", '[{"transcript": "a", "files": [3]}]', "entry 1: no 'fname'"),
        ("m.json", '[{"transcript": "a", "files": []}]', "entry 1: no recording in .files.,"),
        ("m.jsonl", '{"audio": "a", "text": "A"}\n{"audio": ', "line 2, column.*not JSON"),
        ("m.json", "[" * 100_000, "line 1: not JSON of a manifest"),
        ("m.jsonl", '{"audio": "a", "text": "A"}\n{"audio": ' + "1" * 9999, "line 2.*not JSON"),
        ("m.jsonl", r'{"audio": "a\u0000.wav", "text": "A"}', "line 1: audio .* a zero character"),
        ("m.jsonl", r'{"audio": "a", "text": "\ud83d"}', "line 1: text .* half of a surrogate"),
        ("m.json", '{"root_path": 3, "samples": []}', "no 'root_path' .str."),
        ("m.jsonl", '{"audio": "a", "text": "A"}\n{"audio": "b"}', "line 2: no 'text'"),
        ("m.jsonl", '{"wav": "a", "text": "A"}', "line 1: no 'audio' or 'audio_filepath'"),
        (
            "m.jsonl",
            '{"audio": "a", "text": "A", "duration": "long"}',
            "line 1: duration 'long', expected numbers",
        ),
    ],
)
def test_bad_manifests_are_refused_with_file_and_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=f"m.*{message}") as raised:
        read_manifest(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_missing_and_binary_manifests_are_refused(tmp_path):
    with pytest.raises(UserError, match="gone.csv: cannot be read: No such file"):
        read_manifest(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path)
    binary = tmp_path / "m.csv"
    binary.write_bytes(b"RIFF\xff\xfe")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 4\)"):
        read_manifest(binary)


def test_unwritable_output_is_refused(tmp_path):
    write(tmp_path / "file", "")
    with pytest.raises(UserError, match="file/m.csv: cannot be written"):
        WRITERS["csv"]([], tmp_path / "file" / "m.csv")


# ---- corpora


def fake_an4(root: Path, speakers: int = 31) -> None:
    sets = {"train": ("an4_clstk", range(speakers)), "test": ("an4test_clstk", range(90, 92))}
    for name, (folder, numbers) in sets.items():
        ids, texts = [], []
        for number in numbers:
            for take in range(2):
                stem = f"an{take}-s{number:02d}-b"
                write(root / f"wav/{folder}/s{number:02d}/{stem}.sph", "")
                ids.append(f"{folder}/s{number:02d}/{stem}\n")
                texts.insert(0, f"<s> TAKE {take} </s> ({stem})\n" if take else f"GO ({stem})\n")
        write(root / f"etc/an4_{name}.fileids", "".join(ids))
        write(root / f"etc/an4_{name}.transcription", "".join(texts))


def test_an4_validation_speakers_are_not_in_training(tmp_path):
    fake_an4(tmp_path / "data/an4")
    counts = build_an4(tmp_path / "data", tmp_path / "out")
    named = {path.name: count for path, count in counts.items()}
    assert named == {
        "an4_train_manifest.csv": 56,
        "an4_val_manifest.csv": 6,
        "an4_test_manifest.csv": 4,
    }
    parts = {path.name.split("_")[1]: read_manifest(path) for path in counts}
    speakers = {name: {u.audio.parent.name for u in part} for name, part in parts.items()}
    assert speakers["val"] == {"s00", "s15", "s30"} and not speakers["val"] & speakers["train"]
    assert {(u.id[:3], u.text) for u in parts["train"]} == {("an0", "GO"), ("an1", "TAKE 1")}
    assert all(u.audio.is_file() for part in parts.values() for u in part)


def test_an_incomplete_an4_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no an4 found.*etc/an4_train.fileids"):
        build_an4(tmp_path, tmp_path)
    fake_an4(tmp_path)
    (tmp_path / "wav/an4_clstk/s01/an0-s01-b.sph").unlink()
    with pytest.raises(UserError, match="an0-s01-b.sph is missing"):
        build_an4(tmp_path, tmp_path)
    write(tmp_path / "etc/an4_train.transcription", "GO (an0-s00-b)\n")
    with pytest.raises(UserError, match="no line for an1-s00-b"):
        build_an4(tmp_path, tmp_path)


def test_librispeech_has_a_manifest_per_set_and_joined_ones(tmp_path):
    root = tmp_path / "LibriSpeech"
    for name in ("train-clean-100", "train-other-500", "dev-clean", "test-clean", "test-other"):
        chapter = root / name / "19" / "198"
        write(chapter / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n19-198-0001 IT'S\n")
        for number in range(2):
            write(chapter / f"19-198-000{number}.flac", "")
    (root / "train-empty").mkdir()
    counts = build_librispeech(tmp_path, tmp_path / "out")
    assert {path.name.removesuffix("_manifest.csv"): n for path, n in counts.items()} == {
        "libri_train_clean_100": 2,
        "libri_train_other_500": 2,
        "libri_dev_clean": 2,
        "libri_test_clean": 2,
        "libri_test_other": 2,
        "libri_train": 4,
        "libri_val": 2,
    }
    assert brief(read_manifest(tmp_path / "out/libri_test_other_manifest.csv")) == [
        ("19-198-0000", root / "test-other/19/198/19-198-0000.flac", "NORTHANGER ABBEY"),
        ("19-198-0001", root / "test-other/19/198/19-198-0001.flac", "IT'S"),
    ]


def test_an_incomplete_librispeech_is_refused(tmp_path):
    with pytest.raises(UserError, match="no LibriSpeech found"):
        build_librispeech(tmp_path, tmp_path)
    write(tmp_path / "dev-clean/1/2/1-2.trans.txt", "1-2-0000 GONE\n")
    with pytest.raises(UserError, match="1-2-0000.flac is missing"):
        build_librispeech(tmp_path, tmp_path)


# ---- validation


def check(utterances: list[Utterance]):
    return validate(
        utterances,
        CharacterTokenizer(("'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", " ", "_")),
        Featurizer(FeatureConfig(sample_rate=RATE)),
        output_frames=lambda frames: (frames + 1) // 2,
        min_duration=0.2,
        max_duration=2.0,
    )


def test_validation_names_each_problem(tmp_path):
    whole = tone(tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:20000])
    write(tmp_path / "text.wav", "not audio")
    flac = tone(tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    cases = [
        ("good", tone(tmp_path / "good.wav"), "good  day"),
        ("resampled", tone(tmp_path / "8k.wav", rate=8000), "OK"),
        ("gone", tmp_path / "gone.wav", "A"),
        ("cut", tmp_path / "cut.wav", "A"),
        ("cut-flac", tmp_path / "cut.flac", "A"),
        ("no-audio", tmp_path / "text.wav", "A"),
        ("no-text", tone(tmp_path / "t.wav"), " "),
        ("accent", tone(tmp_path / "u.wav"), "CAFÉ 4"),
        ("blank", tone(tmp_path / "b.wav"), "A_B É"),
        ("silent", tone(tmp_path / "s.wav", peak=0.0), "A"),
        ("quiet", tone(tmp_path / "q.wav", peak=0.001), "A"),
        ("short", tone(tmp_path / "short.wav", seconds=0.1), "A"),
        ("long", tone(tmp_path / "long.wav", seconds=2.1), "A"),
        # 0.5 s: 51 feature frames, 26 output frames
        ("fits", tone(tmp_path / "f.wav", seconds=0.5), "AB" * 13),
        ("crowded", tone(tmp_path / "c.wav", seconds=0.5), "AB" * 13 + "C"),
        ("repeats", tone(tmp_path / "r.wav", seconds=0.5), "A" * 14),
        ("both", tone(tmp_path / "x.wav", seconds=0.1, peak=0.0), "A"),
    ]
    report = check([Utterance(name, path, text) for name, path, text in cases])
    found: dict[str, list[str]] = {}
    for problem in report.left_out:
        found.setdefault(problem.reason, []).append(problem.id)
    assert found == {
        "unreadable": ["gone", "cut", "cut-flac", "no-audio"],
        "empty text": ["no-text"],
        "unknown characters": ["accent", "blank"],
        "silent": ["silent", "both"],
        "too short": ["short", "both"],
        "too long": ["long"],
        "CTC-infeasible": ["crowded", "repeats"],
    }
    assert report.total == len(cases)
    assert [u.id for u in report.ok] == ["good", "resampled", "quiet", "fits"]
    assert report.seconds == 3 * 1.0 + 0.5
    assert report.characters == {"É": 2, "4": 1, "_": 1}
    lines = report.lines()
    assert lines[0] == "4 of 17 utterances are good, 0.00 hours"
    assert "unknown characters: 2 ('É' in 2, '4' in 1, '_' in 1)" in lines
    assert "  crowded: text needs 27 output frames, the audio gives 26" in lines
    assert "  repeats: text needs 27 output frames, the audio gives 26" in lines
    assert "  short: 0.10 s, expected at least 0.2 s" in lines
    limited = report.lines(limit=1)
    assert limited[limited.index("unreadable: 4") + 2] == "  and 3 more"


def test_validation_of_a_good_list_is_one_line(tmp_path):
    report = check([Utterance("a", tone(tmp_path / "a.wav"), "A")])
    assert report.lines() == ["1 of 1 utterances are good, 0.00 hours"]


# ---- the command


def run(*args, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.launcher
def test_command_works_from_any_directory(tmp_path):
    fake_an4(tmp_path / "an4", speakers=3)
    made = run("an4", "an4", "out", cwd=tmp_path)
    assert made.returncode == 0 and "out/an4_test_manifest.csv: 4 utterances" in made.stdout
    converted = run("convert", "out/an4_test_manifest.csv", "test.jsonl", cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    back = run("json_to_csv", "test.jsonl", "test.csv", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    original = (tmp_path / "out/an4_test_manifest.csv").read_text()
    assert (tmp_path / "test.csv").read_text() == original


@pytest.mark.launcher
def test_json_to_csv_takes_its_files_as_words_or_as_options(tmp_path):
    files = [{"fname": "a.wav", "speed": 1}, {"fname": "b.wav", "speed": 1.1}]
    write(tmp_path / "m.json", json.dumps([{"transcript": "go", "files": files}]))
    for number, words in enumerate(
        (
            ("m.json", "0.csv"),
            ("--json", "m.json", "--csv", "1.csv"),
            ("--json", "m.json", "2.csv"),
            ("m.json", "--csv", "3.csv"),
        )
    ):
        done = run("json_to_csv", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{number}.csv: 1 utterance\n")
        assert done.stderr == "note: m.json: 1 of 2 recordings left out: copies at another speed\n"
        assert (tmp_path / f"{number}.csv").read_text() == f"{tmp_path / 'a.wav'},go\n"
    for words in ((), ("m.json",), ("--json", "m.json"), ("--csv", "x", "a", "b")):
        refused = run("json_to_csv", *words, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr == "error: json_to_csv: expected IN OUT, or --json IN --csv OUT\n"


@pytest.mark.launcher
def test_command_writes_the_labels_of_manifests(tmp_path):
    write(tmp_path / "a.csv", "x.wav,\u4f60 \u597d\n")
    write(tmp_path / "b.csv", "y.wav,\u597de\u0301_\n")
    done = run("labels", "a.csv", "b.csv", "labels.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "labels.json: 5 labels\n")
    labels = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert labels == ["\u00e9", "\u4f60", "\u597d", " ", "_"]
    assert CharacterTokenizer.from_file(tmp_path / "labels.json").labels == tuple(labels)


@pytest.mark.launcher
def test_command_reports_bad_input_in_one_line(tmp_path):
    for args in (
        ("librispeech", tmp_path, "out"),
        ("convert", "gone.csv", "m.jsonl"),
        ("convert", "gone.csv", "m.xyz"),
    ):
        refused = run(*args, cwd=tmp_path)
        assert refused.returncode == 1 and refused.stdout == ""
        assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
