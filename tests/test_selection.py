"""One selection of what is trained on: validation, conversion and training agree on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from synthetic_corpus import LABELS, RATE, spoken, tiny

from common.data.dataset import Entry
from common.data.manifest import Utterance, read_manifest
from common.data.manifest_writers import write_jsonl
from common.data.mindrecord import open_dataset
from common.data.selection import (
    COPY,
    FAULTS,
    OUTSIDE_SUBSET,
    REASONS,
    Candidate,
    LeftOut,
    SelectionRules,
    count_reasons,
    reasons_against,
    select,
)
from common.data.splits import convert_split
from common.data.validation import validate
from common.text.tokenizer import CharacterTokenizer
from common.training.epoch_plan import select_training_examples
from common.utils.logging import open_log
from deepspeech2.src.recipe import RECIPE

NARROW = {
    "Data__min_duration": 0.2,
    "Data__max_duration": 2.0,
    "Data__val_manifest": "",
}
WIDE = {
    "Data__min_duration": 0.0,
    "Data__max_duration": 100.0,
    "Data__ignore_offline_speed_perturbation": False,
    "Model__conv_strides": [[2, 1]],  # twice the output frames
    "Data__val_manifest": "",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """train.jsonl: two good utterances, and one for each reason to leave one out."""
    rng = np.random.default_rng(0)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))

    def add(name: str, text: str, samples: np.ndarray, **more) -> Utterance:
        path = tmp_path / f"{name}.wav"
        sf.write(path, samples, RATE, subtype="PCM_16")
        return Utterance(name, path, text, **more)

    tones = spoken("AB CD", rng)
    utterances = [
        add("good", "AB CD", tones),
        Utterance("gone", tmp_path / "gone.wav", "A"),
        add("wordless", "", tones),
        add("accented", "AÉ?", tones),
        add("quiet", "A", np.zeros(RATE)),
        add("short", "A", tones[:800]),
        add("long", "ABCD", np.tile(tones, 4)),
        add("crowded", "ABCD" * 14, tones),  # 56 labels; about 100 feature, 50 output frames
        add("slow", "AB CD", tones, speed=0.9, copy_of="good"),
        add("also good", "DC", spoken("DC", rng)),
    ]
    write_jsonl(utterances, tmp_path / "train.jsonl")
    return tmp_path


def configured(corpus: Path, records: str, **changes):
    pattern = str(corpus / records / "{split}" / "x{}.md")
    manifest = str(corpus / "train.jsonl")
    return tiny(
        corpus, **{"Data__train_manifest": manifest, "Data__mindrecord_format": pattern, **changes}
    )


def convert(config) -> list[LeftOut]:
    return list(convert_split(RECIPE, config, "train", log=lambda line: None).left_out)


def as_set(reasons: list[LeftOut]) -> set[tuple[str, str, str]]:
    found = {(each.id, each.reason, each.message) for each in reasons}
    assert len(found) == len(reasons)
    return found


EXPECTED = {
    ("gone", "unreadable"),
    ("wordless", "empty text"),
    ("accented", "unknown characters"),
    ("quiet", "silent"),
    ("short", "too short"),
    ("long", "too long"),
    ("crowded", "CTC-infeasible"),
    ("slow", "copy at another speed"),
}


def test_validation_conversion_and_training_leave_out_the_same_for_the_same_reasons(
    corpus, tmp_path
):
    narrow = configured(corpus, "narrow", **NARROW)
    data = narrow.DataConfig
    report = validate(
        read_manifest(data.train_manifest),
        CharacterTokenizer(tuple(LABELS)),
        RECIPE.build_featurizer(data),
        lambda frames: RECIPE.output_frames(narrow.ModelConfig, frames),
        data.min_duration,
        data.max_duration,
        ignore_copies=data.ignore_offline_speed_perturbation,
    )
    validated = as_set(report.left_out)
    assert {(name, reason) for name, reason, _ in validated} == EXPECTED
    assert {reason for _, reason in EXPECTED} == set(REASONS) - {OUTSIDE_SUBSET}
    assert [utterance.id for utterance in report.ok] == ["good", "also good"]

    assert as_set(convert(narrow)) == validated

    # What training leaves out itself, of files that were converted with wider limits.
    wide = configured(corpus, "wide", **WIDE)
    assert {each.id for each in convert(wide)} == {"gone", "wordless", "accented", "quiet"}
    dataset = open_dataset(corpus / "wide" / "train")
    assert len(dataset) == 6
    log = open_log(tmp_path / "train.log", quiet=True)
    speech_model = SimpleNamespace(
        config=narrow,
        output_frames=lambda frames: RECIPE.output_frames(narrow.ModelConfig, frames),
    )
    kept = select_training_examples(speech_model, dataset, log)
    assert kept.ids == ["good", "also good"]
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert f"left out: each with its reason in {tmp_path / 'train.log'}" in lines
    logged = [tuple(line[2:].split(": ", 2)) for line in lines if line.startswith("  ")]
    assert set(logged) == {each for each in validated if each[1] in FAULTS}
    counts = [line for line in lines if re.match(r"left out: \d", line)]
    assert len(counts) == len(EXPECTED) and all(": 1 " in line for line in counts)
    ignored = "DataConfig.ignore_offline_speed_perturbation"
    assert f"left out: 1 recording at another speed ({ignored})" in counts


def test_records_converted_before_speeds_were_written_are_selected_alike(corpus):
    wide = configured(corpus, "wide", **WIDE)
    convert(wide)
    folder = corpus / "wide" / "train"
    entries = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
    assert [entry.pop("speed") for entry in entries] == [1, 1, 1, 1, 0.9, 1]
    (folder / "utterances.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    made = json.loads((folder / "dataset.json").read_text())
    made["files"]["utterances.jsonl"] = (folder / "utterances.jsonl").stat().st_size
    (folder / "dataset.json").write_text(json.dumps(made))

    narrow = configured(corpus, "narrow", **NARROW)
    speech_model = SimpleNamespace(config=narrow, output_frames=lambda frames: frames // 2)
    log = open_log(corpus / "train.log", quiet=True)
    kept = select_training_examples(speech_model, open_dataset(folder), log)
    assert kept.ids == ["good", "also good"]


def candidate(name: str, duration: float = 1.0, **more) -> Candidate:
    speed = more.pop("speed", 1.0)
    entry = Entry(name, "A", duration, 100, 1, 1, more.pop("copy_of", ""), speed)
    return Candidate(entry, is_copy=speed != 1.0, **more)


def test_an_utterance_may_have_several_reasons():
    rules = SelectionRules(lambda frames: 0, min_duration=2.0)
    reasons = reasons_against(candidate("a", peak=0.0), rules)
    assert [each.reason for each in reasons] == ["silent", "too short", "CTC-infeasible"]
    assert reasons[0].message == "peak 0.0e+00 of full scale, expected at least 1e-04"
    assert reasons[1].message == "1.00 s, expected at least 2 s"
    assert reasons[2].message == "text needs 1 output frames, the audio gives 0"


def test_limits_themselves_are_kept_and_what_was_not_measured_is_not_judged():
    rules = SelectionRules(lambda frames: 1, 1.0, 1.0, max_record_bytes=10)
    assert reasons_against(candidate("a", peak=1e-4, record_bytes=10), rules) == []
    assert reasons_against(candidate("a"), rules) == []
    (reason,) = reasons_against(candidate("a", record_bytes=11), rules)
    assert reason.reason == "too long"


def test_copies_are_left_out_only_where_they_are_ignored():
    slow = candidate("a-0.9", speed=0.9, copy_of="a", peak=0.0)
    ignoring = reasons_against(slow, SelectionRules(ignore_copies=True))
    assert [each.reason for each in ignoring] == [COPY]  # and is judged no further
    assert [each.reason for each in reasons_against(slow, SelectionRules())] == ["silent"]


def test_a_subset_is_drawn_of_what_is_left_and_takes_copies_along():
    candidates = [candidate(f"u{number}") for number in range(20)]
    candidates += [candidate(f"u{n}-0.9", speed=0.9, copy_of=f"u{n}") for n in range(20)]
    candidates += [candidate("too long", duration=9.0)]
    rules = SelectionRules(max_duration=2.0, max_utterances=6, seed=3)
    selection = select(candidates, rules)
    kept = {candidates[index].entry.id for index in selection.kept}
    assert len(kept) == 12 and {f"{name}-0.9" for name in kept if "-" not in name} < kept
    assert count_reasons(selection.left_out) == {"too long": 1, OUTSIDE_SUBSET: 28}
    assert {each.id for each in selection.left_out} | kept == {c.entry.id for c in candidates}
    assert select(candidates, rules).kept.tolist() == selection.kept.tolist()
    other = SelectionRules(max_duration=2.0, max_utterances=6, seed=4)
    assert select(candidates, other).kept.tolist() != selection.kept.tolist()
    hour = SelectionRules(max_duration=2.0, max_hours=5.5 / 3600)
    assert len(select(candidates, hour).kept) == 2 * 5
    subset = [each for each in selection.left_out if each.reason == OUTSIDE_SUBSET]
    assert subset[0].message == "not drawn for DataConfig.max_utterances=6"
