"""Input that is damaged in ways that a campaign of fuzz_inputs.py found."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from synthetic_lm import write_arpa

from common import config as configs
from common.audio.features import FeatureConfig
from common.audio.io import audio_info, load_audio
from common.data.manifest import read_manifest
from common.data.mindrecord import open_dataset
from common.data.mindrecord_header import check_header
from common.decoding.ngram_lm import WordModel
from common.export.description import check_content
from common.export.offline_inference import _read_index, read_description
from common.launching import LaunchError, make_rank_table
from common.launching.make_rank_table import make_table, this_host
from common.launching.rank_table import read_rank_table
from common.text.tokenizer import CharacterTokenizer
from common.utils.errors import UserError
from common.utils.json_parsing import parse_json
from deepspeech2.src.recipe import RECIPE as DEEPSPEECH2
from jasper.src.recipe import RECIPE as JASPER

DEEP = "[" * 100_000 + "]" * 100_000
HALF = '["_", "\\ud800"]'


@pytest.mark.parametrize(
    ("text", "problem"),
    [(DEEP, "nested too deeply"), (HALF, r"\\ud8... without its other half, at character 7")],
)
def test_json_that_python_stumbles_over_is_a_value_error(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_json_of_whole_characters_is_read():
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800", NaN]')[:2] == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize("text", [DEEP, HALF, '["_", 1e999]', "[" + "9" * 5000 + "]"])
def test_labels_and_rank_tables_of_such_json_are_refused_by_name(tmp_path, text):
    path = tmp_path / "input.json"
    path.write_text(text)
    with pytest.raises(UserError, match="input.json"):
        CharacterTokenizer.from_file(path)
    with pytest.raises(LaunchError, match="input.json"):
        read_rank_table(path)


def test_a_rank_of_thousands_of_digits_is_refused(tmp_path):
    table = make_table([("10.0.0.1", [(0, "192.168.0.1")])])
    table["server_list"][0]["device"][0]["rank_id"] = "9" * 5000
    path = tmp_path / "hccl.json"
    path.write_text(json.dumps(table))
    with pytest.raises(LaunchError, match="hccl.json.*expected a number from 0 on"):
        read_rank_table(path)


def test_addresses_are_read_beside_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_bytes(b"# \xff\naddress_0=192.168.0.1\naddress_" + b"9" * 5000 + b"=1\n")
    assert this_host(None, str(path)) == [(0, "192.168.0.1")]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000 + "]" * 5000,
        "a: " + "9" * 5000,
        "a: 2020-13-45",
        "!!bool maybe: 1",
        "!!timestamp x: 1",
        "TrainingConfig: {epochs: !!int ''}",
    ],
)
def test_yaml_that_pyyaml_stumbles_over_is_refused_by_name(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml: not valid YAML"):
        configs.override_from_yaml(DEEPSPEECH2.train_config(), path)


def test_aliases_that_hold_each_other_make_a_short_message():
    """Lines of YAML such as `b: &b [*a, *a, *a]`; written in full, these would be gigabytes."""
    nested = yaml.safe_load("[x, x, x]")
    for _ in range(40):
        nested = [nested] * 8
    config = DEEPSPEECH2.train_config()
    with pytest.raises(UserError, match="mine.yaml: TrainingConfig.epochs: expected int, found"):
        configs.override(config, {"TrainingConfig": {"epochs": nested}}, "mine.yaml")


@pytest.mark.parametrize(
    ("recipe", "values", "problem"),
    [
        (JASPER, {"blocks": [{"repeat": 10**30}]}, r"blocks\[0\]\.repeat=1(0+): expected at least"),
        (JASPER, {"blocks": [{"stride": 0}]}, r"blocks\[0\]\.stride=0: expected at least 1"),
        (JASPER, {"blocks": []}, "blocks: expected at least one block"),
        (DEEPSPEECH2, {"conv_strides": [[0, 0], [2, 1]]}, r"expected \[bins, frames\] pairs"),
        (DEEPSPEECH2, {"conv_strides": [[2], [2, 1]]}, r"expected \[bins, frames\] pairs"),
    ],
)
def test_networks_are_checked_before_their_output_frames_are_counted(recipe, values, problem):
    config = recipe.train_config()
    configs.override(config, {"ModelConfig": values}, "mine.yaml")
    with pytest.raises(UserError, match=problem):
        configs.check(config)


def test_numbers_beyond_floats_are_refused():
    config = DEEPSPEECH2.train_config()
    with pytest.raises(UserError, match="clip_norm: expected float, found 1000"):
        configs.override(config, {"TrainingConfig": {"clip_norm": 10**400}}, "mine.yaml")


def test_a_compressed_language_model_that_is_cut_is_refused(tmp_path):
    """KenLM hangs on some of these."""
    whole = bz2.compress(write_arpa(tmp_path / "model.arpa").read_bytes())
    path = tmp_path / "model.arpa.bz2"
    tokenizer = CharacterTokenizer(("A", "B", " ", "_"))
    pytest.importorskip("kenlm")
    for size in range(20, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="model.arpa.bz2: not an n-gram language model"):
            WordModel(path, tokenizer, 1.0, 0.0, 0.0)


def test_a_language_model_with_bytes_that_are_no_text_is_refused(tmp_path):
    pytest.importorskip("kenlm")
    path = write_arpa(tmp_path / "model.arpa")
    path.write_bytes(path.read_bytes().replace(b"-0.6", b"\xff\xfe", 1))
    with pytest.raises(UserError, match="model.arpa: not an n-gram language model"):
        WordModel(path, CharacterTokenizer(("A", "B", " ", "_")), 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("buckets", 1.5),
        ("buckets", [3]),
        ("buckets", [{"file": "a.onnx", "batch_size": "1", "frames": 2}]),
        ("files", [{"file": "a.onnx"}]),
    ],
)
def test_damaged_lists_of_exported_files_are_refused(key, value):
    with pytest.raises(UserError, match=f"model.json: its {key} are damaged"):
        check_content({key: value}, "model.json")


HEADER = {
    "header_size": 16777216,
    "index_fields": [{"index_field": "id", "schema_id": 0}],
    "page": [
        {
            **{"page_id": 0, "shard_id": 0, "page_type_id": 0, "page_size": 9, "start_row_id": 0},
            **{"end_row_id": 1, "page_type": "RAW_DATA", "row_group_ids": [{"id": 0, "offset": 0}]},
        }
    ],
    "page_size": 33554432,
    "schema": [{"blob_fields": [], "desc": "", "schema": {"id": {"type": "string"}}}],
    "shard_addresses": ["x0.md"],
    "shard_id": 0,
    "version": "3.0",
}


def mindrecord(header: object) -> str:
    """The start of a MindRecord file."""
    text = json.dumps(header)
    return len(text).to_bytes(8, "little").decode("latin-1") + text


ENTRY = {"id": "a", "text": "A", "duration": 1.0, "frames": 9, "labels": 1, "ctc_frames": 1}


def write_corpus(folder: Path, entry: dict, **changes: Any) -> Path:
    """A converted corpus of one utterance, as far as it is read when it is opened."""
    contents = {"utterances.jsonl": json.dumps(entry) + "\n", "x0.md": mindrecord(HEADER)}
    for name, text in contents.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    description = {
        "format": 1,
        "store": "audio",
        "records": {"x0.md": 1},
        "files": {name: len(text) for name, text in contents.items()},
        "left_out": [],
        "utterances": 1,
        "seconds": 1.0,
    }
    (folder / "dataset.json").write_text(json.dumps(description | changes))
    return folder


@pytest.mark.parametrize("key", [*HEADER, "row_group_ids", "end_row_id", "blob_fields", "type"])
def test_a_header_without_a_key_is_refused_before_mindspore_ends_the_process(tmp_path, key):
    path = tmp_path / "x0.md"
    path.write_bytes(mindrecord(HEADER).encode("latin-1"))
    check_header(path)
    path.write_bytes(mindrecord(HEADER).replace(f'"{key}"', f'"{key[:-1]}~"').encode("latin-1"))
    with pytest.raises(UserError, match="x0.md: its header is damaged; convert again"):
        check_header(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, mindrecord([1]).encode("latin-1")])
def test_what_is_no_header_is_refused(tmp_path, content):
    path = tmp_path / "x0.md"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x0.md: its header is damaged; convert again"):
        check_header(path)


def test_the_corpus_of_these_tests_is_opened(tmp_path):
    assert len(open_dataset(write_corpus(tmp_path, ENTRY))) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"files": 3}, "dataset.json: damaged"),
        ({"left_out": [{"id": 1}]}, "dataset.json: damaged"),
        ({"store": "else"}, "dataset.json: damaged"),
        ({"records": {"y0.md": 1}}, "dataset.json: damaged"),
        ({"records": {"x0.md": 2}}, r"utterances.jsonl: damaged \(1 utterances, expected 2\)"),
    ],
)
def test_damaged_descriptions_of_converted_corpora_are_refused(tmp_path, change, problem):
    with pytest.raises(UserError, match=problem):
        open_dataset(write_corpus(tmp_path, ENTRY, **change))


@pytest.mark.parametrize(
    "change", [{"frames": "many"}, {"duration": float("nan")}, {"id": 3}, {"more": 1}]
)
def test_damaged_entries_of_converted_corpora_are_refused(tmp_path, change):
    with pytest.raises(UserError, match="utterances.jsonl: damaged"):
        open_dataset(write_corpus(tmp_path, ENTRY | change))


@pytest.mark.parametrize("rate", [1, 99, 10_000_001])
def test_sample_rates_that_no_recording_has_are_refused(tmp_path, rate):
    """22 kB at 1 Hz would be resampled to 1.4 GB."""
    path = tmp_path / "odd.wav"
    sf.write(path, np.full(22_000, 0.1), rate)
    with pytest.raises(UserError, match=rf"odd.wav: a sample rate of {rate} Hz; expected 100 to"):
        load_audio(path, 16000)
    with pytest.raises(UserError, match="odd.wav: a sample rate"):
        audio_info(path)
    sf.write(path, np.full(22_000, 0.1), 100)
    assert audio_info(path).duration == 220


def test_a_name_with_a_zero_character_is_refused():
    with pytest.raises(UserError, match="audio file a\\\\x00b: no name of a file"):
        load_audio("a\0b", 16000)


def test_a_transcript_that_is_a_device_is_refused(tmp_path):
    """/dev/zero has no end."""
    path = tmp_path / "manifest.json"
    path.write_text('{"samples": [{"wav_path": "a.wav", "transcript_path": "/dev/zero"}]}')
    with pytest.raises(UserError, match="sample 1: transcript file /dev/zero.*a device"):
        read_manifest(path)


def test_an_index_whose_ids_hold_line_separators_is_read(tmp_path):
    values = {"text": "A", "name": "n", "features": "00_data/n.bin", "frames": 3, "duration": 1.0}
    path = tmp_path / "index.jsonl"
    lines = [
        json.dumps({"id": f"a\u2028{number}", **values}, ensure_ascii=False) for number in "12"
    ]
    path.write_text("\n".join(lines) + "\n")
    assert [entry.id for entry in _read_index(path)] == ["a\u20281", "a\u20282"]
    for change in ({"frames": "3"}, {"frames": -1}, {"id": 3}, {"duration": float("inf")}):
        path.write_text(json.dumps({"id": "a", **values, **change}))
        with pytest.raises(UserError, match="index.jsonl: not an index that preprocess.py wrote"):
            _read_index(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window_size", float("nan")),
        ("window_stride", float("-inf")),
        ("window_size", 3600.0),
        ("bands", 10**9),
        ("frame_splicing", 10**9),
        ("sample_rate", 10**12),
    ],
)
def test_features_that_would_fill_the_memory_are_refused(key, value):
    with pytest.raises(UserError, match=f"{key} {value}: expected at most"):
        FeatureConfig(kind="logmel", **{key: value})


def test_a_table_that_no_launcher_takes_names_where_it_comes_from(tmp_path, capsys):
    conf, out = tmp_path / "hccn.conf", tmp_path / "hccl.json"
    conf.write_text("address_0=192.168s.0.1\n")
    options = ["--hccn_conf", str(conf), "--server_ip", "10.0.0.1", "--out", str(out)]
    assert make_rank_table.main(options) == 1
    said = capsys.readouterr().err
    assert f"{out} of {conf}, server 1 (10.0.0.1): device_ip 192.168s.0.1 is no IP address" in said
    assert list(tmp_path.iterdir()) == [conf]


@pytest.mark.parametrize(
    ("group", "values", "problem"),
    [
        ("ModelConfig", {"blocks": [{"stride": 0}]}, r"ModelConfig.blocks\[0\].stride=0"),
        ("DataConfig", {"SpectConfig": {"window_size": 0.0}}, "window_size 0.0"),
    ],
)
def test_descriptions_of_networks_that_cannot_be_built_are_refused(
    tmp_path, group, values, problem
):
    path = tmp_path / "jasper.json"
    content = {"file_format": "MINDIR", "model": "jasper", "device": "CPU", "labels": ["A", "_"]}
    path.write_text(json.dumps({**content, "config": {}}))
    model = read_description(JASPER, path)
    assert model.device == "CPU"
    with pytest.raises(UserError, match="jasper.json: names no files of the model"):
        model.forward()
    path.write_text(json.dumps({**content, "config": {group: values}}))
    with pytest.raises(UserError, match=f"jasper.json: {problem}"):
        read_description(JASPER, path)
